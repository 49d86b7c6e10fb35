"""What the SDK checks of the daemon it was given, before the application is announced there.

The daemon is asked first; the guest agent and the chain, where the application names them, are
asked by the application itself, so that it need not believe the daemon. Answers are bounded, and
no error tells a URL, which may hold a key.
"""

from __future__ import annotations

from typing import Any

import anyio
import httpx

from attest.bounded_json import parse_json
from consensus.keccak import keccak256
from node.client_errors import ClusterError, SeatNotActive, WrongCluster, WrongInstance

ANSWER_BYTES_MAX = 256 * 1024
EXTERNAL_TIMEOUT_S = 10.0
ACTIVE = 1  # MemberStatus of the registry
_MEMBER_ABI = (
    "(uint256,address,uint32,uint8,uint16,uint8,bool,uint40,uint48,bytes20,bytes32,address,string)"
)


def check_contract(status: dict[str, Any], contract: bytes) -> None:
    """Raises WrongCluster: the daemon serves another contract, or does not say which."""
    chain = status.get("chain")
    told = chain.get("contract") if isinstance(chain, dict) else None
    try:
        served = contract_bytes(str(told))
    except ValueError:
        raise WrongCluster("the daemon does not say which contract it serves") from None
    if served != contract:
        raise WrongCluster(
            f"the daemon serves contract 0x{served.hex()}; expected 0x{contract.hex()}"
        )


async def check_instance(status: dict[str, Any], socket: str) -> None:
    """Raises WrongInstance: the guest agent on this socket is not that of the daemon's machine."""
    transport = httpx.AsyncHTTPTransport(uds=socket, verify=False, trust_env=False)
    body = await _post_json(transport, "http://localhost/Info", {}, WrongInstance, "agent")
    mine, daemons = body.get("instance_id"), status.get("instance_id")
    if not _same_hex(mine, daemons):
        raise WrongInstance(
            f"the guest agent is instance {str(mine)[:64]!r}, the daemon {str(daemons)[:64]!r}"
        )


async def check_seat(status: dict[str, Any], contract: bytes, rpc_url: str) -> None:
    """Raises SeatNotActive: the chain does not show the daemon on its seat, or says nothing."""
    seat = status.get("seat")
    if type(seat) is not int or not 0 < seat < 2**256:
        raise SeatNotActive("the daemon does not say which seat it holds")
    call = {
        "to": "0x" + contract.hex(),
        "data": "0x" + (_selector("member(uint256)") + seat.to_bytes(32, "big")).hex(),
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
    transport = httpx.AsyncHTTPTransport(verify=rpc_url.startswith("https://"), trust_env=False)
    body = await _post_json(transport, rpc_url, request, SeatNotActive, "RPC endpoint")
    if "error" in body or body.get("id") != 1 or not isinstance(body.get("result"), str):
        raise SeatNotActive(
            f"the chain does not know seat {seat} of 0x{contract.hex()} "
            f"(answer: {str(body.get('error', 'none'))[:200]})"
        )
    state, instance = _decode_member(body["result"], seat)
    if state != ACTIVE:
        raise SeatNotActive(f"seat {seat} is not active on the chain (status {state})")
    if not _same_hex(instance.hex(), status.get("instance_id")):
        raise SeatNotActive(f"seat {seat} is held on the chain by instance {instance.hex()}")


def contract_bytes(text: str) -> bytes:
    """The 20 bytes of a contract's address. Raises ValueError: it is no such text."""
    raw = text.removeprefix("0x") if isinstance(text, str) else ""
    if len(raw) != 40 or not all(c in "0123456789abcdefABCDEF" for c in raw):
        raise ValueError("contract_address: expected 0x and 40 hex digits")
    return bytes.fromhex(raw)


async def _post_json(
    transport: httpx.AsyncHTTPTransport,
    url: str,
    body: dict[str, Any],
    kind: type[ClusterError],
    who: str,
) -> dict[str, Any]:
    """POST JSON, bounded; failures become ``kind`` and never tell the URL (it may hold a key)."""
    try:
        with anyio.fail_after(EXTERNAL_TIMEOUT_S):
            async with (
                httpx.AsyncClient(transport=transport, trust_env=False) as http,
                http.stream("POST", url, json=body, timeout=EXTERNAL_TIMEOUT_S) as response,
            ):
                raw = b""
                async for piece in response.aiter_bytes():
                    raw += piece
                    if len(raw) > ANSWER_BYTES_MAX:
                        raise kind(f"the {who} answers more than {ANSWER_BYTES_MAX} bytes")
                status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        raise kind(f"the {who} cannot be asked: {type(error).__name__}") from None
    try:
        document = parse_json(raw)
    except ValueError:
        document = None
    if status != 200 or not isinstance(document, dict):
        raise kind(f"the {who} answers HTTP status {status}; expected 200 and a JSON object")
    return document


def _same_hex(one: Any, other: Any) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    one, other = one.lower().removeprefix("0x"), other.lower().removeprefix("0x")
    return bool(one) and one == other


def _selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


def _decode_member(result: str, seat: int) -> tuple[int, bytes]:
    """Status and instance id (20 bytes) of the registry's ``member(seat)`` answer."""
    from chain.abi import decode
    from chain.errors import BadChainData

    try:
        (member,) = decode([_MEMBER_ABI], bytes.fromhex(result.removeprefix("0x")), "the answer")
    except (BadChainData, ValueError):
        raise SeatNotActive(
            f"the chain's answer for seat {seat} is no member of a registry"
        ) from None
    if member[0] != seat:
        raise SeatNotActive(f"the chain answered for seat {member[0]}; expected {seat}")
    return member[3], bytes(member[9])
