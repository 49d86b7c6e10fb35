"""The guest agents and the PCCS: one simulator process that serves one socket per node."""

from __future__ import annotations

from pathlib import Path

import trio

from attest import (
    AttestError,
    GuestAgent,
    NodeIdentity,
    TrustedRoot,
    obtain_identity,
)
from deploy.simulator import TdxPki, new_kms_root, read_kms_root, root_address, write_kms_root

from . import processes
from .chain import CHAIN_ID
from .layout import ProcessRecord, Testnet, TestnetError

POLL_S = 0.05
FIRST_ROOT_EPOCH = 1  # the number that the registry's constructor gives its first root


def make_root(testnet: Testnet) -> None:
    """Write a fresh KMS root secret into the testnet's directory, for the simulator alone.

    Beside it, for the daemons, the certificate of the mock TDX authority that grows of it.
    """
    root = new_kms_root()
    write_kms_root(str(testnet.kms_root_file), root)
    testnet.tdx_root_file.write_bytes(TdxPki.of_kms_root(root).root_der)


def kms_root(testnet: Testnet) -> bytes:
    """The 20-byte address that the registry is to trust."""
    return root_address(read_kms_root(str(testnet.kms_root_file)))


def start(testnet: Testnet) -> ProcessRecord:
    """Start the simulator, with the PCCS for everybody; the caller records it."""
    argv = ["--pccs-port", str(testnet.pccs_port)]
    for node in testnet.nodes:
        argv += ["--node", f"{testnet.socket(node.seat)}:{node.instance_seed}"]
    return _spawn(testnet, argv)


def start_one(testnet: Testnet, socket: Path, instance_seed: str) -> ProcessRecord:
    """Start the guest agent of one more machine, under the same root and app."""
    return _spawn(testnet, ["--node", f"{socket}:{instance_seed}"])


def _spawn(testnet: Testnet, arguments: list[str]) -> ProcessRecord:
    argv = processes.python(
        "deploy.simulator",
        "--kms-secret-file", str(testnet.kms_root_file),
        "--app-id", testnet.app_id,
        "--fault-file", str(testnet.fault_file),
        *arguments,
    )  # fmt: skip
    return processes.spawn(
        argv, log=testnet.log("agents"), mark=testnet.mark, cwd=testnet.directory
    )


async def wait_ready(testnet: Testnet) -> None:
    """Wait until every socket answers; the caller bounds the time. Raises TestnetError."""
    for node in testnet.nodes:
        await wait_one_ready(testnet, node.seat)


async def wait_one_ready(testnet: Testnet, seat: int) -> None:
    """Wait until the seat's socket answers. Raises TestnetError when its process ended."""
    agent = GuestAgent(str(testnet.socket(seat)), deadline_s=5)
    while True:
        if not processes.is_alive(testnet.node(seat).agent or testnet.agents):
            log = testnet.log("agents")
            raise TestnetError(f"the agents ended; end of {log}:\n{processes.tail(log)}")
        try:
            await agent.info()
            return
        except AttestError:
            await trio.sleep(POLL_S)


async def identities(testnet: Testnet, contract: bytes) -> dict[int, NodeIdentity]:
    """The identity that each seat's daemon will obtain, asked and verified the same way."""
    return {node.seat: await identity(testnet, contract, node.seat) for node in testnet.nodes}


async def identity(testnet: Testnet, contract: bytes, seat: int) -> NodeIdentity:
    """The identity of one seat's daemon. Raises TestnetError."""
    try:
        return await obtain_identity(
            GuestAgent(str(testnet.socket(seat))),
            chain_id=CHAIN_ID,
            contract=contract,
            seat=seat,
            roots=(TrustedRoot(kms_root(testnet), FIRST_ROOT_EPOCH),),
            app_id=bytes.fromhex(testnet.app_id),
        )
    except AttestError as error:
        raise TestnetError(f"the agent of seat {seat}: {error}") from None
