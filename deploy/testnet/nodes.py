"""The daemons: their configuration files and their start, the same for the first and the tenth."""

from __future__ import annotations

import httpx
import trio

from chain import read_deployment
from node.config import (
    AgentConfig,
    ApiConfig,
    AttestationConfig,
    ChainConfig,
    Config,
    InsecureConfig,
    LogConfig,
    NodeConfig,
    TimingConfig,
)

from . import processes
from .layout import NodeRecord, ProcessRecord, Testnet, TestnetError, write_private
from .survey import fetch_status

POLL_S = 0.1
CHAIN_POLL_MS = 500  # anvil makes a block each second


def write_config(testnet: Testnet, node: NodeRecord) -> None:
    """Write ``node-SEAT/config.toml``, with every weaker mode of a local testnet named in it.

    Which registry it is stands in the deployment file alone, as on a real cluster.
    """
    deployed = read_deployment(testnet.deployment_file)
    port = testnet.p2p_port(node.seat)
    config = Config(
        node=NodeConfig(
            seat=node.seat,
            state_dir=testnet.node_dir(node.seat) / "data",
            endpoint=f"/ip4/127.0.0.1/tcp/{port + testnet.announced_offset}",
            listen=f"/ip4/127.0.0.1/tcp/{port}",
        ),
        chain=ChainConfig(
            deployment=testnet.deployment_file,
            chain_id=deployed.chain_id,
            contract=deployed.contract,
            rpc=(testnet.rpc_url,),
            kms_roots=deployed.kms_roots,
            deploy_block=deployed.deploy_block,
            code_hash=deployed.code_hash,
            rpc_quorum=1,
            app_id=bytes.fromhex(testnet.app_id),
            poll_interval_ms=CHAIN_POLL_MS,
        ),
        agent=AgentConfig(socket=testnet.socket(node.seat)),
        attestation=AttestationConfig(
            pccs_urls=(testnet.pccs_url,), tdx_root_file=testnet.tdx_root_file
        ),
        api=ApiConfig(listen=f"127.0.0.1:{testnet.api_port(node.seat)}"),
        log=LogConfig(format="json", level="info"),
        timing=TimingConfig(),
        insecure=InsecureConfig(simulator=True, single_rpc=True, external_tdx_root=True),
    )
    write_private(testnet.node_config(node.seat), config.to_toml().encode())


def start(testnet: Testnet, seat: int) -> ProcessRecord:
    """Start that seat's daemon on its configuration; the caller records it."""
    config = testnet.node_config(seat)
    if not config.is_file():
        raise TestnetError(f"seat {seat} has no configuration ({config})")
    return processes.spawn(
        processes.python("node.cli", "run", "--config", str(config), *settings(testnet)),
        log=testnet.node_log(seat),
        mark=testnet.mark,
        cwd=testnet.node_dir(seat),
    )


def settings(testnet: Testnet) -> list[str]:
    """The arguments that give every daemon the testnet's settings."""
    return [word for setting in testnet.settings for word in ("--set", setting)]


async def wait_answers(testnet: Testnet, seat: int, deadline_s: float) -> None:
    """Wait until the daemon answers ``/v1/status``. Raises TestnetError with the log's end."""
    record = testnet.node(seat).process
    assert record is not None, "the caller started it"
    log = testnet.node_log(seat)
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
        with trio.move_on_after(deadline_s):
            while processes.is_alive(record):
                if await fetch_status(client, testnet.api_url(seat)) is not None:
                    return
                await trio.sleep(POLL_S)
    problem = f"does not answer after {deadline_s:.0f} s" if processes.is_alive(record) else "ended"
    raise TestnetError(f"seat {seat} {problem}; end of {log}:\n{processes.tail(log)}")
