"""Who does not belong stays outside, the reason is in the log, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from attest import SecretKey
from chain.eip712 import domain_separator
from chain.keys import LocalKey, address_of
from chain.rpc import RpcEndpoint
from deploy import calls
from deploy.contract import RegistryOwner, open_owner_sender
from deploy.simulator import Node, SimulatorConfig, new_kms_root, read_kms_root, root_address, serve
from deploy.testnet import processes
from deploy.testnet.chain import fund
from deploy.testnet.layout import ProcessRecord
from node.config import ApiConfig, load_config
from node.network import Mesh, PeerAddress
from tests.integration.anvil_chain import grant
from tests.integration.testnet import Testnet, free_base_port

LOG_DEADLINE_S = 40


@dataclass
class Stranger:
    """A daemon that should not get in, on a seat that was granted to it in good faith."""

    log_file: Path
    process: ProcessRecord | None = None

    async def ended(self) -> None:
        """Returns when the daemon has ended."""
        assert self.process is not None
        with trio.fail_after(LOG_DEADLINE_S):
            while processes.is_alive(self.process):
                await trio.sleep(0.05)

    async def logged(
        self, event: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """The first log line with this event that fits."""
        with trio.fail_after(LOG_DEADLINE_S):
            while True:
                for line in self.log_file.read_text().splitlines():
                    with contextlib.suppress(json.JSONDecodeError):
                        row = json.loads(line)
                        if row.get("event") == event and fits(row):
                            return dict(row)
                await trio.sleep(0.1)


@contextlib.asynccontextmanager
async def stranger(
    testnet: Testnet, *, root: bytes, app_id: bytes, trusted: bytes | None = None
) -> AsyncIterator[Stranger]:
    """A daemon whose agent works under ``root`` and ``app_id``; ``trusted`` is what it believes."""
    state = testnet.state
    model = load_config(state.node_config(1))
    place = Path("/tmp") / f"dc-{secrets.token_hex(4)}"  # socket paths must be short
    place.mkdir(mode=0o700)
    socket, seed = str(place / "agent.sock"), os.urandom(20)
    base = free_base_port(1)
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(
            serve, SimulatorConfig(SecretKey(root), app_id, (Node(socket, seed),))
        )
        seat = await _grant(testnet, serving.instances[socket])
        config = replace(
            model,
            node=replace(
                model.node,
                seat=seat,
                state_dir=place / "data",
                listen=f"/ip4/127.0.0.1/tcp/{base}",
                endpoint=f"/ip4/127.0.0.1/tcp/{base}",
            ),
            agent=replace(model.agent, socket=Path(socket)),
            chain=replace(
                model.chain,
                deployment=None,  # it trusts another root than the testnet's
                app_id=app_id,
                kms_roots=(trusted or root_address(root),),
            ),
            api=ApiConfig(listen=f"127.0.0.1:{base + 1}"),
        )
        (place / "config.toml").write_text(config.to_toml())
        record = processes.spawn(
            processes.python("node.cli", "run", "--config", str(place / "config.toml")),
            log=place / "log",
            mark=state.mark,
            cwd=place,
        )
        try:
            yield Stranger(place / "log", record)
        finally:
            processes.send(record, signal.SIGKILL)
            nursery.cancel_scope.cancel()
            shutil.rmtree(place)


async def _grant(testnet: Testnet, instance_id: bytes) -> int:
    """A seat of weight 1 in a fresh wallet, bound to the instance: the owner is no obstacle."""
    wallets = json.loads((testnet.directory / "wallets.json").read_text())
    chain = load_config(testnet.state.node_config(1)).chain
    holder = LocalKey(secrets.token_bytes(32))

    def owner(key: LocalKey) -> RegistryOwner:
        sender = open_owner_sender(
            chain.chain_id, list(chain.rpc), 1, key, single_rpc_insecure=True
        )
        return RegistryOwner(sender, chain.contract)

    await _fund(testnet, holder.address)
    contract_owner = LocalKey(bytes.fromhex(wallets["contract_owner"]))
    seat = await grant(owner(contract_owner), holder.address, 1)
    await owner(holder).send(calls.bind_instance(seat, instance_id))
    return seat


async def _fund(testnet: Testnet, address: bytes) -> None:
    rpc = RpcEndpoint(load_config(testnet.state.node_config(1)).chain.rpc[0])
    await fund(rpc, [address])
    await rpc.aclose()


async def _registry_is_untouched(testnet: Testnet, version: int) -> None:
    """Beyond the grant itself nothing was written, and the cluster goes on."""
    async with testnet.client(1) as client:
        status = await client.status()
    assert status["chain"]["version"] <= version + 1
    await testnet.put("after", b"goes on")


async def _version(testnet: Testnet) -> int:
    async with testnet.client(1) as client:
        return int((await client.status())["chain"]["version"])


async def test_a_node_of_another_app_is_refused_by_the_registry(
    shared_testnet: Testnet,
) -> None:
    version = await _version(shared_testnet)
    root = read_kms_root(str(shared_testnet.state.kms_root_file))
    async with stranger(shared_testnet, root=root, app_id=os.urandom(20)) as outsider:
        identity = await outsider.logged("identity")
        await _fund(shared_testnet, address_of(bytes.fromhex(identity["node_key"])))
        line = await outsider.logged(
            "registration_refused", lambda row: "AppNotAllowed" in row["reason"]
        )
        assert line["level"] == "error"
    await _registry_is_untouched(shared_testnet, version)


async def test_a_node_under_another_kms_root_is_refused_by_the_registry(
    shared_testnet: Testnet,
) -> None:
    version = await _version(shared_testnet)
    app_id = bytes.fromhex(shared_testnet.state.app_id)
    async with stranger(shared_testnet, root=new_kms_root(), app_id=app_id) as outsider:
        await outsider.logged("registration_refused", lambda row: "such root" in row["reason"])
    await _registry_is_untouched(shared_testnet, version)


async def test_a_daemon_does_not_use_a_key_whose_chain_ends_in_a_root_it_does_not_trust(
    shared_testnet: Testnet,
) -> None:
    state = shared_testnet.state
    trusted = root_address(read_kms_root(str(state.kms_root_file)))
    app_id = bytes.fromhex(state.app_id)
    async with stranger(
        shared_testnet, root=new_kms_root(), app_id=app_id, trusted=trusted
    ) as outsider:
        line = await outsider.logged("failed")
        assert line["kind"] == "SignatureChainError"
        await outsider.ended()


async def test_a_stranger_with_a_key_of_its_own_is_cut_in_the_handshake(
    shared_testnet: Testnet,
) -> None:
    state = shared_testnet.state
    config = load_config(state.node_config(1))
    async with shared_testnet.client(1) as client:
        node_key = bytes.fromhex((await client.status())["node_key"])
    secret = secrets.token_bytes(32)
    mesh = Mesh(
        secret=secret,
        cluster_id=domain_separator(config.chain.chain_id, config.chain.contract),
        seat=2,  # it claims to be somebody
        listen="/ip4/127.0.0.1/tcp/0",
    )
    mesh.set_members([PeerAddress(1, node_key, config.node.endpoint)])
    target = Stranger(state.node_log(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)

        def refused(row: dict[str, Any]) -> bool:
            return row["peer_id"] == mesh.peer_id and row["reason"] == "not_a_member"

        await target.logged("peer_refused", refused)
        assert not any(link.connected for link in mesh.links())
        nursery.cancel_scope.cancel()
    status = await shared_testnet.status()
    assert all(node["peers"] == len(shared_testnet.seats) - 1 for node in status["nodes"])
    await shared_testnet.put("after", b"goes on")
