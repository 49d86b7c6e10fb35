"""Our encodings against eth_account's and eth_abi's, and foreign bytes against our decoders."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import eth_abi
import pytest
from eth_abi import grammar
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.bounded_json import parse_json
from chain import eip712
from chain.abi import ContractAbi, decode, encode
from chain.errors import BadChainData, ChainConfigError
from chain.keys import CURVE_ORDER, LocalKey, address_of, keccak256, recover, with_v27
from chain.rlp import encode as rlp
from chain.rows import usable_endpoint
from chain.transactions import Transaction, contract_address, sign

SECRET = keccak256(b"a key of this test")
KEY = LocalKey(SECRET)
CONTRACT = bytes(range(20))
uint = st.integers(0, 2**64 - 1)


@settings(max_examples=40)
@given(
    chain_id=st.integers(1, 2**53), nonce=uint, tip=uint, extra=uint,
    gas=st.integers(21_000, 2**40), value=uint,
    to=st.one_of(st.just(b""), st.binary(min_size=20, max_size=20)),
    data=st.binary(max_size=400),
)  # fmt: skip
def test_signed_transactions_equal_those_of_eth_account(
    chain_id: int, nonce: int, tip: int, extra: int, gas: int, to: bytes, value: int, data: bytes
) -> None:
    ours = sign(Transaction(chain_id, nonce, tip, tip + extra, gas, to, value, data), KEY)
    theirs = Account.from_key(SECRET).sign_transaction(
        {
            "type": 2, "chainId": chain_id, "nonce": nonce, "maxPriorityFeePerGas": tip,
            "maxFeePerGas": tip + extra, "gas": gas, "value": value, "data": data,
            **({"to": to} if to else {}),
        }
    )  # fmt: skip
    assert ours.raw == bytes(theirs.raw_transaction) and ours.hash == bytes(theirs.hash)


@settings(max_examples=25)
@given(
    seat=uint,
    odd=st.booleans(),
    incarnation=st.integers(0, 2**48 - 1),
    endpoint=st.text(max_size=50),
)
def test_typed_data_equals_that_of_eth_account(
    seat: int, odd: bool, incarnation: int, endpoint: str
) -> None:
    values = (seat, b"\x11" * 32, odd, b"\x22" * 20, 1, incarnation, 99, endpoint)
    fields = [part.split(" ") for part in eip712.REGISTER[9:-1].split(",")]
    message = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                "Register": [{"name": name, "type": kind} for kind, name in fields],
            },
            "primaryType": "Register",
            "domain": {
                "name": "dstack-cluster",
                "version": "1",
                "chainId": 31337,
                "verifyingContract": "0x" + CONTRACT.hex(),
            },
            "message": {name: v for (_, name), v in zip(fields, values, strict=True)},
        }
    )
    domain = eip712.domain_separator(31337, CONTRACT)
    assert domain == bytes(message.header)
    digest = eip712.digest(domain, eip712.REGISTER, *values)
    assert digest == keccak256(b"\x19\x01" + message.header + message.body)
    assert KEY.sign(digest) == bytes(Account.from_key(SECRET).sign_message(message).signature)


@pytest.mark.parametrize(
    "values",
    [
        (2**256, b"\0" * 20, 1),
        (-1, b"\0" * 20, 1),
        (True, b"\0" * 20, 1),
        (1, b"\0" * 19, 1),
        (1, "0x00", 1),
        (1, b"\0" * 20, 2**64),
        (1, b"\0" * 20),
    ],
)
def test_values_that_do_not_fit_a_typed_struct_are_refused(values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError):
        eip712.struct_hash(eip712.AUTHORIZE, *values)  # type: ignore[arg-type]


def test_addresses_and_recovery_equal_those_of_eth_account() -> None:
    account = Account.from_key(SECRET)
    assert KEY.address == bytes.fromhex(account.address[2:])
    signature = KEY.sign(keccak256(b"x"))
    assert address_of(recover(keccak256(b"x"), signature)) == KEY.address
    zero_based = signature[:64] + bytes([signature[64] - 27])
    assert with_v27(zero_based) == signature
    assert address_of(recover(keccak256(b"x"), zero_based)) == KEY.address
    assert int.from_bytes(signature[32:64], "big") <= CURVE_ORDER // 2
    for bad in (b"", bytes(65), signature[:64] + b"\x1d", b"\xff" * 64 + b"\x1b"):
        with pytest.raises(ValueError):
            recover(keccak256(b"x"), bad)
    # The first contract of anvil's first account, known from everywhere.
    deployer = bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
    assert contract_address(deployer, 0).hex() == "5fbdb2315678afecb367f032d93f642f64180aa3"


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, b"1" * 31])
def test_a_bad_secret_is_refused_without_showing_it(secret: bytes) -> None:
    with pytest.raises(ChainConfigError) as raised:
        LocalKey(secret)
    assert "31313131" not in str(raised.value) and raised.value.__cause__ is None


def test_a_key_never_shows_its_secret() -> None:
    shown = repr(KEY) + str(KEY) + f"{KEY}"
    assert SECRET.hex() not in shown and KEY.address.hex() in shown


def test_rlp_equals_the_examples_of_the_yellow_paper() -> None:
    assert rlp(b"dog") == b"\x83dog"
    assert rlp([b"cat", b"dog"]) == b"\xc8\x83cat\x83dog"
    assert rlp(0) == rlp(b"") == b"\x80"
    assert rlp(15) == b"\x0f" and rlp(1024) == b"\x82\x04\x00"
    assert rlp([[], [[]], [[], [[]]]]) == bytes.fromhex("c7c0c1c0c3c0c1c0")
    assert rlp(b"x" * 56) == b"\xb8\x38" + b"x" * 56


ABI = ContractAbi(
    [
        {
            "type": "function", "name": "get", "inputs": [{"name": "s", "type": "uint256"}],
            "outputs": [
                {
                    "name": "", "type": "tuple[]",
                    "components": [
                        {"name": "seat", "type": "uint256"}, {"name": "text", "type": "string"},
                    ],
                }
            ],
        },
        {"type": "error", "name": "Bad", "inputs": [{"name": "a", "type": "bytes20"}]},
    ]
)  # fmt: skip


def test_calls_and_results_follow_the_abi() -> None:
    function = ABI.function("get")
    assert function.encode(5) == keccak256(b"get(uint256)")[:4] + (5).to_bytes(32, "big")
    data = eth_abi.encode(["(uint256,string)[]"], [[(1, "a"), (2, "b")]])
    assert function.decode(data) == (((1, b"a"), (2, b"b")),)
    with pytest.raises(ValueError):
        function.encode(-1)
    with pytest.raises(ChainConfigError, match="no function nothing"):
        ABI.function("nothing")


def values_of(kind: str) -> st.SearchStrategy[object]:
    """Values of a type, as eth_abi decodes them."""
    if kind.endswith("]"):
        item, _, count = kind[:-1].rpartition("[")
        least = int(count) if count else 0
        many = st.lists(values_of(item), min_size=least, max_size=int(count) if count else 4)
        return many.map(tuple)
    if kind.startswith("("):
        return st.tuples(*map(values_of, parts_of(kind)))
    if kind.startswith("uint"):
        return st.integers(0, 2 ** int(kind[4:]) - 1)
    if kind.startswith("int"):
        return st.integers(-(2 ** (int(kind[3:]) - 1)), 2 ** (int(kind[3:]) - 1) - 1)
    if kind[:5] == "bytes" and kind[5:]:
        return st.binary(min_size=int(kind[5:]), max_size=int(kind[5:]))
    twenty = st.binary(min_size=20, max_size=20)
    return {
        "bool": st.booleans(),
        "address": twenty.map(lambda raw: "0x" + raw.hex()),
        "bytes": st.binary(max_size=70),
        "string": st.text(max_size=40),
    }[kind]


def parts_of(kind: str) -> list[str]:
    return [part.to_type_str() for part in grammar.parse(kind).components]


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=4).map(lambda parts: f"({','.join(parts)})")
    return several | st.tuples(inner, st.sampled_from(["[]", "[1]", "[3]"])).map("".join)


PLAIN = (
    "uint8", "uint40", "uint256", "int8", "int256", "bool", "address", "bytes1", "bytes20",
    "bytes32", "bytes", "string",
)  # fmt: skip
KINDS = st.recursive(st.sampled_from(PLAIN), wider, max_leaves=6)
CASES = st.lists(KINDS, max_size=4).flatmap(
    lambda kinds: st.tuples(st.just(kinds), st.tuples(*map(values_of, kinds)))
)


@settings(max_examples=100, deadline=None)
@given(CASES)
def test_values_of_any_type_are_encoded_as_eth_abi_does_and_read_back(
    case: tuple[list[str], tuple[object, ...]],
) -> None:
    kinds, values = case
    theirs = eth_abi.encode(kinds, values)
    assert encode(kinds, values) == theirs
    assert decode(kinds, theirs, "it") == values


@settings(max_examples=100, deadline=None)
@given(CASES, st.data())
def test_damaged_bytes_are_refused_or_read_as_eth_abi_does(
    case: tuple[list[str], tuple[object, ...]], data: st.DataObject
) -> None:
    kinds, values = case
    raw = bytearray(eth_abi.encode(kinds, values))
    for _ in range(data.draw(st.integers(1, 3)) if raw else 0):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 0x20, 0x40, 0x60, 0xFF]))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        ours = decode(kinds, damaged, "it")
    except BadChainData:
        return
    assert ours == eth_abi.decode(kinds, damaged)


def test_offsets_to_the_same_bytes_do_not_make_much_of_little() -> None:
    text = eth_abi.encode(["bytes"], [bytes(64_000)])[32:]
    heads = [(1000).to_bytes(32, "big"), *[(32_000).to_bytes(32, "big")] * 1000]
    bomb = (32).to_bytes(32, "big") + b"".join(heads) + text
    assert len(bomb) < 100_000 and len(eth_abi.decode(["bytes[]"], bomb)[0]) == 1000
    with pytest.raises(BadChainData, match="more than once"):
        decode(["bytes[]"], bomb, "it")


@pytest.mark.parametrize(
    "kind",
    ["uint7", "uint264", "int0", "bytes0", "bytes33", "fixed8x1", "()", "()[]", "uint8[0]",
     "uint8[0][]", "(uint8", "uint8)", "(bool),(bool)", "(bool,)", "", "bool" + "[]" * 20],
)  # fmt: skip
def test_a_type_that_there_is_not_has_no_values(kind: str) -> None:
    with pytest.raises(ValueError):
        encode([kind], [()])
    with pytest.raises(BadChainData):
        decode([kind], bytes(320), "it")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", 256), ("uint8", -1), ("uint8", True), ("uint8", "1"), ("int8", 128),
        ("bool", 1), ("address", "0x00"), ("address", bytes(19)), ("address", "0x" + "zz" * 20),
        ("bytes20", bytes(21)), ("bytes20", bytes(19)), ("bytes", "text"), ("string", b"bytes"),
        ("uint8[2]", (1,)), ("uint8[]", 1), ("(uint8,uint8)", (1,)), ("string", "\ud800"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_its_type_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError):
        encode([kind], [value])


def test_text_that_is_not_utf8_does_not_spoil_its_neighbours() -> None:
    data = eth_abi.encode(["(uint256,bytes)[]"], [[(1, b"\xff\xfe"), (2, b"ok")]])
    assert ABI.function("get").decode(data) == (((1, b"\xff\xfe"), (2, b"ok")),)


@settings(max_examples=150)
@given(data=st.binary(max_size=300))
def test_no_bytes_make_the_decoder_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(BadChainData):
        ABI.function("get").decode(data)
    refused = ABI.reverted(data)
    assert all(" " <= c <= "~" for c in str(refused)) and len(str(refused)) < 400


def test_reverts_are_readable() -> None:
    def selector(text: bytes) -> bytes:
        return keccak256(text)[:4]

    assert ABI.reverted(selector(b"Bad(bytes20)") + b"\x01" * 20 + bytes(12)).text == (
        "Bad(0x" + "01" * 20 + ")"
    )
    plain = selector(b"Error(string)") + eth_abi.encode(["string"], ["too\nlate"])
    assert ABI.reverted(plain).text == "too?late"
    panic = selector(b"Panic(uint256)") + (0x11).to_bytes(32, "big")
    assert ABI.reverted(panic).text == "Panic(0x11)"
    assert ABI.reverted(b"").text == "no reason given"
    assert ABI.reverted(b"\x01\x02\x03\x04").name == "unknown"


# ---------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 90_000,
        b'{"a":' * 50_000,
        b"[" * 33 + b"]" * 33,
        b'["' + b'\\"' * 5 + b'"' + b",[" * 5000,
        b'"\\\\"' + b"[" * 100,
        ("[" * 90_000).encode("utf-16"),
        ("[" * 90_000).encode("utf-32-le"),
        b"\xff",
        b"",
    ],
)
def test_deep_nesting_is_refused_even_where_the_recursion_limit_was_lifted(raw: bytes) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        with pytest.raises(ValueError):
            parse_json(raw)
    finally:
        sys.setrecursionlimit(limit)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab[]{}"\\\x00\u00e9', max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text('"\\[', max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=60)
@given(part=st.lists(json_values, max_size=4), ascii_only=st.booleans())
def test_what_nests_reasonably_parses_as_ever(part: list[object], ascii_only: bool) -> None:
    value = [part] * 40  # many brackets, so that the check is not passed over
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


# ---------------------------------------------------------------------- endpoints, imports


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (b"/ip4/127.0.0.1/tcp/9000", True),
        (b"/dns4/node-1.example.org/tcp/443", True),
        (b"/ip6/fe80::1%eth0/tcp/1", True),
        (b"", False),
        (b"ip4/1.2.3.4/tcp/1", False),
        (b"/ip4//tcp/1", False),
        (b"/ip4/1.2.3.4/tcp/1 ", False),
        (b"/ip4/1.2.3.4/tcp/1\n", False),
        (b"/ip4/\x1b[31m/tcp/1", False),
        ("/dns4/\u0435xample/tcp/1".encode(), False),
        (b"/ip4/\xff/tcp/1", False),
        (b"/a/" + b"b" * 126, False),
    ],
)
def test_an_unusable_endpoint_becomes_empty(text: bytes, usable: bool) -> None:
    assert usable_endpoint(text) == (text.decode() if usable else "")


def test_importing_the_room_loads_none_of_the_slow_packages() -> None:
    code = "import sys, json, chain; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code], timeout=30))
    assert not {"web3", "eth_account", "eth_abi", "pydantic", "asyncio.runners"} & set(modules) - {
        "asyncio.runners"
    }
