"""Typed structured data (EIP-712) for the fixed-size types and strings that the registry signs.

``digest = keccak(0x19 0x01 || domain separator || keccak(typeHash || encoded fields))``.
"""

from __future__ import annotations

from chain.keys import keccak256

DOMAIN_NAME = "dstack-cluster"
DOMAIN_VERSION = "1"

REGISTER = (
    "Register(uint256 seat,bytes32 keyX,bool keyOdd,bytes20 instanceId,uint8 scheme,"
    "uint48 incarnation,uint64 deadline,string endpoint)"
)
ANNOUNCE = "Announce(uint256 seat,uint48 incarnation,uint64 deadline,string endpoint)"
AUTHORIZE = "Authorize(uint256 seat,bytes20 instanceId,uint64 deadline)"
_DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"

Value = int | bool | str | bytes


def domain_separator(chain_id: int, contract: bytes) -> bytes:
    """The registry's domain separator, which is also the cluster id (32 bytes)."""
    return struct_hash(_DOMAIN, DOMAIN_NAME, DOMAIN_VERSION, chain_id, contract)


def digest(domain: bytes, type_text: str, *values: Value) -> bytes:
    """The 32 bytes that are signed for a struct in a domain."""
    return keccak256(b"\x19\x01" + domain + struct_hash(type_text, *values))


def struct_hash(type_text: str, *values: Value) -> bytes:
    """``hashStruct`` of EIP-712: the type's hash and one word per field.

    Raises:
        ValueError: a value does not fit its field.
    """
    fields = type_text[type_text.index("(") + 1 : -1].split(",")
    if len(fields) != len(values):
        raise ValueError(f"{len(values)} values for the {len(fields)} fields of {type_text}")
    words = [keccak256(type_text.encode())]
    for field, value in zip(fields, values, strict=True):
        words.append(_word(field.split(" ")[0], value))
    return keccak256(b"".join(words))


def _word(kind: str, value: Value) -> bytes:
    if kind == "string" and isinstance(value, str):
        return keccak256(value.encode())
    if kind == "bool" and isinstance(value, bool):
        return int(value).to_bytes(32, "big")
    if kind.startswith("uint") and type(value) is int and 0 <= value < 1 << int(kind[4:]):
        return value.to_bytes(32, "big")
    if kind == "address" and isinstance(value, bytes) and len(value) == 20:
        return value.rjust(32, b"\0")
    if kind.startswith("bytes") and isinstance(value, bytes) and len(value) == int(kind[5:]):
        return value.ljust(32, b"\0")
    raise ValueError(f"a value does not fit its field of type {kind}")
