"""A node gets an identity only from a chain that verifies for its own place; else it gets none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from attest import (
    ApiNotMounted,
    ChainFault,
    GuestAgent,
    IdentityError,
    NodeIdentity,
    SecretKey,
    SignatureChainError,
    TrustedRoot,
    node_purpose,
    obtain_identity,
    verify_chain,
)
from deploy.simulator import instance_id
from deploy.simulator.kms import get_key_v0, get_key_v1, issue_app_keys

SEED = b"\x07" * 20
CONTRACT = b"\xc0" * 20
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "dstack.json").read_text())


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.sock")


async def obtain(path: str, world: Any, **changes: Any) -> NodeIdentity:
    place: dict[str, Any] = {
        "chain_id": 31337,
        "contract": CONTRACT,
        "seat": 3,
        "roots": [world.root()],
    }
    return await obtain_identity(GuestAgent(path), **(place | changes))


@pytest.mark.parametrize(
    ("options", "scheme", "used"),
    [
        ({}, None, 0),
        ({}, 0, 0),
        ({}, 1, 1),
        ({"serves_v1": False}, None, 0),
        ({"serves_v0": False}, None, 1),
    ],
)
async def test_an_identity_is_bound_to_its_place_and_provable_to_others(
    socket_path: str,
    world: Any,
    simulate: Any,
    options: dict[str, bool],
    scheme: int | None,
    used: int,
) -> None:
    await simulate(world, {socket_path: SEED}, **options)
    mine = await obtain(socket_path, world, scheme=scheme)
    instance = instance_id(SEED, world.app_id)
    purpose = node_purpose(31337, CONTRACT, 3, instance)
    expected = (
        get_key_v0(world.app, purpose, purpose, "")
        if used == 0
        else get_key_v1(world.app, purpose, "secp256k1")
    )
    assert (mine.scheme, mine.purpose, mine.instance_id) == (used, purpose, instance)
    assert mine.secret.reveal() == expected.key
    assert mine.node_key == expected.public_key == mine.secret.public_key()
    assert mine.app_key == world.app.secret.public_key()
    assert (mine.root, mine.root_epoch) == (world.root().address, 7)
    assert mine.app_signature[64] in (27, 28) and mine.kms_signature[64] in (27, 28)

    # What a peer does with it, knowing the key from the handshake and the rest from the registry.
    verified = verify_chain(
        mine.proof(),
        purpose=purpose,
        app_id=world.app_id,
        public_key=mine.node_key,
        roots=[world.root()],
        now_s=0,
    )
    assert verified.app_key == mine.app_key


async def test_each_seat_chain_contract_instance_and_scheme_has_its_own_key(
    tmp_path: Path, world: Any, simulate: Any
) -> None:
    one, two = str(tmp_path / "1"), str(tmp_path / "2")
    await simulate(world, {one: b"\x01" * 20, two: b"\x02" * 20})
    identities = [
        await obtain(one, world),
        await obtain(one, world, seat=4),
        await obtain(one, world, chain_id=1),
        await obtain(one, world, contract=b"\xc1" * 20),
        await obtain(one, world, scheme=1),
        await obtain(two, world),
    ]
    assert len({identity.node_key for identity in identities}) == len(identities)
    assert (await obtain(one, world)) == identities[0]


async def test_a_kms_with_another_root_gives_no_identity(
    socket_path: str, world: Any, other_world: Any, simulate: Any
) -> None:
    await simulate(other_world, {socket_path: SEED})
    with pytest.raises(SignatureChainError) as caught:
        await obtain(socket_path, world)
    assert caught.value.fault is ChainFault.UNTRUSTED_ROOT


async def test_an_agent_of_another_app_gives_no_identity(
    socket_path: str, world: Any, simulate: Any
) -> None:
    await simulate(world, {socket_path: SEED})
    assert await obtain(socket_path, world, app_id=world.app_id)
    with pytest.raises(IdentityError, match="the cluster wants"):
        await obtain(socket_path, world, app_id=b"\xab" * 20)


async def test_a_demanded_scheme_is_never_replaced_by_the_other(
    tmp_path: Path, world: Any, simulate: Any
) -> None:
    """A registered node that fell back would come up under another key, as a stranger."""
    no_v0, no_v1 = str(tmp_path / "no_v0"), str(tmp_path / "no_v1")
    await simulate(world, {no_v0: SEED}, serves_v0=False)
    await simulate(world, {no_v1: SEED}, serves_v1=False)
    with pytest.raises(ApiNotMounted):
        await obtain(no_v0, world, scheme=0)
    with pytest.raises(ApiNotMounted):
        await obtain(no_v1, world, scheme=1)


async def test_an_expired_root_gives_no_identity(
    socket_path: str, world: Any, simulate: Any
) -> None:
    await simulate(world, {socket_path: SEED})
    roots = [world.root(valid_until_s=1000)]
    assert await obtain(socket_path, world, roots=roots, now_s=999)
    with pytest.raises(SignatureChainError) as caught:
        await obtain(socket_path, world, roots=roots)
    assert caught.value.fault is ChainFault.ROOT_EXPIRED


async def test_a_published_test_root_needs_the_flag(socket_path: str, simulate: Any) -> None:
    issuer = VECTORS["kms_chain_from_root"]

    class PublicWorld:
        kms_root = bytes.fromhex(issuer["kms_root_private_key"])
        app_id = bytes.fromhex(issuer["app_id"])

    roots = [TrustedRoot(bytes.fromhex(issuer["kms_root_address"][2:]), epoch=1)]
    await simulate(PublicWorld(), {socket_path: SEED})
    place = {"chain_id": 1, "contract": CONTRACT, "seat": 1, "roots": roots}
    with pytest.raises(SignatureChainError, match="--insecure-simulator") as caught:
        await obtain_identity(GuestAgent(socket_path), **place)
    assert caught.value.fault is ChainFault.TEST_ROOT
    assert await obtain_identity(GuestAgent(socket_path), **place, insecure_simulator=True)


class LyingAgent:
    """Answers Info and GetKey with whatever a test wants."""

    def __init__(self, fake_agents: Any, world: Any, **lies: Any) -> None:
        self._fake_agents = fake_agents
        self._world = world
        self._lies = lies

    def running(self) -> Any:
        async def script(stream: trio.SocketStream) -> None:
            request = await stream.receive_some(65536)
            if b"/Info" in request:
                reply = {
                    "app_id": self._lies.get("app_id", self._world.app_id).hex(),
                    "instance_id": self._lies.get(
                        "instance_id", instance_id(SEED, self._world.app_id)
                    ).hex(),
                }
            else:
                reply = self._lies["key_reply"]
            data = json.dumps(reply).encode()
            await stream.send_all(
                b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
            )

        return self._fake_agents.running(script)


def key_reply(secret: bytes, chain: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"key": secret.hex(), "signature_chain": [item.hex() for item in chain]}


async def fault_of(fake_agents: Any, world: Any, **lies: Any) -> ChainFault:
    async with LyingAgent(fake_agents, world, **lies).running() as path:
        with pytest.raises(SignatureChainError) as caught:
            await obtain(path, world)
    return caught.value.fault


async def test_a_key_under_the_chain_of_another_key_gives_no_identity(
    fake_agents: Any, world: Any
) -> None:
    purpose = node_purpose(31337, CONTRACT, 3, instance_id(SEED, world.app_id))
    genuine = get_key_v0(world.app, purpose, purpose, "")
    reply = key_reply(b"\x66" * 32, genuine.signature_chain)
    fault = await fault_of(fake_agents, world, key_reply=reply)
    assert fault is ChainFault.UNTRUSTED_ROOT


async def test_a_copied_proof_of_another_seat_gives_no_identity(
    fake_agents: Any, world: Any
) -> None:
    purpose = node_purpose(31337, CONTRACT, 4, instance_id(SEED, world.app_id))
    copied = get_key_v0(world.app, purpose, purpose, "")
    reply = key_reply(copied.key, copied.signature_chain)
    fault = await fault_of(fake_agents, world, key_reply=reply)
    assert fault is ChainFault.UNTRUSTED_ROOT


async def test_a_proof_of_another_app_under_the_same_kms_gives_no_identity(
    fake_agents: Any, world: Any
) -> None:
    """The agent names the right app, its keys come from another one that the KMS serves."""
    purpose = node_purpose(31337, CONTRACT, 3, instance_id(SEED, world.app_id))
    other_app = issue_app_keys(world.kms_root, b"\xbb" * 20)
    other = get_key_v0(other_app, purpose, purpose, "")
    reply = key_reply(other.key, other.signature_chain)
    fault = await fault_of(fake_agents, world, key_reply=reply)
    assert fault is ChainFault.UNTRUSTED_ROOT


async def test_an_app_without_instance_ids_gives_no_identity(fake_agents: Any, world: Any) -> None:
    async with LyingAgent(fake_agents, world, instance_id=b"").running() as path:
        with pytest.raises(IdentityError, match="no_instance_id"):
            await obtain(path, world)


async def test_no_failure_shows_the_secret(fake_agents: Any, world: Any) -> None:
    secret = SecretKey(b"\x66" * 32)
    reply = key_reply(secret.reveal(), (b"\x01" * 64 + b"\0", b"\x02" * 64 + b"\0"))
    async with LyingAgent(fake_agents, world, key_reply=reply).running() as path:
        with pytest.raises(SignatureChainError) as caught:
            await obtain(path, world)
    assert secret.reveal().hex() not in str(caught.value)
    assert secret.reveal().hex() not in repr(caught.value)


async def test_wrong_arguments_fail_before_the_agent_is_asked(tmp_path: Path, world: Any) -> None:
    path = str(tmp_path / "nobody")
    for wrong in ({"scheme": 2}, {"app_id": b"\x01"}):
        with pytest.raises(ValueError):
            await obtain(path, world, **wrong)
