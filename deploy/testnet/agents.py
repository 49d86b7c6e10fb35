"""The guest agents: one simulator process that serves one socket per node."""

from __future__ import annotations

import trio

from attest import (
    AttestError,
    GuestAgent,
    NodeIdentity,
    TrustedRoot,
    obtain_identity,
)
from deploy.simulator import new_kms_root, read_kms_root, root_address, write_kms_root

from . import processes
from .chain import CHAIN_ID
from .layout import ProcessRecord, Testnet, TestnetError

POLL_S = 0.05
FIRST_ROOT_EPOCH = 1  # the number that the registry's constructor gives its first root


def make_root(testnet: Testnet) -> None:
    """Write a fresh KMS root secret into the testnet's directory, for the simulator alone."""
    write_kms_root(str(testnet.kms_root_file), new_kms_root())


def kms_root(testnet: Testnet) -> bytes:
    """The 20-byte address that the registry is to trust."""
    return root_address(read_kms_root(str(testnet.kms_root_file)))


def start(testnet: Testnet) -> ProcessRecord:
    """Start the simulator; the caller records it."""
    argv = processes.python(
        "deploy.simulator",
        "--kms-secret-file", str(testnet.kms_root_file),
        "--app-id", testnet.app_id,
    )  # fmt: skip
    for node in testnet.nodes:
        argv += ["--node", f"{testnet.socket(node.seat)}:{node.instance_seed}"]
    return processes.spawn(
        argv, log=testnet.log("agents"), mark=testnet.mark, cwd=testnet.directory
    )


async def wait_ready(testnet: Testnet) -> None:
    """Wait until every socket answers; the caller bounds the time. Raises TestnetError."""
    for node in testnet.nodes:
        agent = GuestAgent(str(testnet.socket(node.seat)), deadline_s=5)
        while True:
            if not processes.is_alive(testnet.agents):
                log = testnet.log("agents")
                raise TestnetError(f"the agents ended; end of {log}:\n{processes.tail(log)}")
            try:
                await agent.info()
                break
            except AttestError:
                await trio.sleep(POLL_S)


async def identities(testnet: Testnet, contract: bytes) -> dict[int, NodeIdentity]:
    """The identity that each seat's daemon will obtain, asked and verified the same way."""
    roots = (TrustedRoot(kms_root(testnet), FIRST_ROOT_EPOCH),)
    found = {}
    for node in testnet.nodes:
        try:
            found[node.seat] = await obtain_identity(
                GuestAgent(str(testnet.socket(node.seat))),
                chain_id=CHAIN_ID,
                contract=contract,
                seat=node.seat,
                roots=roots,
                app_id=bytes.fromhex(testnet.app_id),
            )
        except AttestError as error:
            raise TestnetError(f"the agent of seat {node.seat}: {error}") from None
    return found
