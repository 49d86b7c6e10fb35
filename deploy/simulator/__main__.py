"""The simulator as a process: sockets from the command line, the secret from a file.

Prints one JSON line when everything accepts; SIGTERM or SIGINT removes the sockets and ends it
with status 0. A start that fails prints one line to standard error and ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence

import trio

from attest.keys import SecretKey, checksum_address

from .kms import read_kms_root
from .server import Node, Serving, SimulatorConfig, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal; returns the exit status."""
    status = 0
    try:
        config = _config(arguments)
        trio.run(_run, config)
    except* (OSError, ValueError) as group:
        print(f"simulator: {_first(group)}", file=sys.stderr)
        status = 1
    return status


async def _run(config: SimulatorConfig) -> None:
    # Before the sockets open: a signal that comes while starting must remove them, too.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, signals, nursery.cancel_scope)
            serving: Serving = await nursery.start(serve, config)
            print(_ready_line(serving), flush=True)


async def _stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _ready_line(serving: Serving) -> str:
    return json.dumps(
        {
            "event": "ready",
            "root": checksum_address(serving.root),
            "app_id": serving.app_id.hex(),
            "instances": {path: seed.hex() for path, seed in serving.instances.items()},
            "tdx_root": serving.tdx_root.hex(),
            "pccs_url": serving.pccs_url,
        }
    )


def _config(arguments: Sequence[str] | None) -> SimulatorConfig:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.simulator",
        description="Guest agents, KMS and TDX platforms for testnets; not for production.",
    )
    parser.add_argument("--kms-secret-file", required=True, help="hex of the root, mode 0600")
    parser.add_argument("--app-id", required=True, type=_hex, help="20 bytes in hex")
    parser.add_argument("--socket", help="where to listen, for a single node")
    parser.add_argument("--instance-seed", type=_hex, help="20 bytes in hex, for --socket")
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        type=_node,
        metavar="SOCKET:SEED",
        help="a node's socket and seed; repeat for more nodes",
    )
    parser.add_argument("--fault-file", help="what is wrong with which machine; read as it changes")
    parser.add_argument("--pccs-port", type=int, help="serve collateral on this loopback port")
    parser.add_argument("--no-v0", action="store_true", help="do not serve guest API v0")
    parser.add_argument("--no-v1", action="store_true", help="do not serve guest API v1")
    parser.add_argument("--old", action="store_true", help="be like agents before 0.5.6")
    options = parser.parse_args(arguments)
    nodes: list[Node] = list(options.node)
    if (options.socket is None) != (options.instance_seed is None):
        parser.error("--socket and --instance-seed belong together")
    if options.socket is not None:
        nodes.append(Node(options.socket, options.instance_seed))
    return SimulatorConfig(
        kms_root=SecretKey(read_kms_root(options.kms_secret_file)),
        app_id=options.app_id,
        nodes=tuple(nodes),
        serves_v0=not options.no_v0,
        serves_v1=not options.no_v1,
        is_old=options.old,
        fault_file=options.fault_file,
        pccs_port=options.pccs_port,
    )


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected hex, got {text!r}") from None


def _node(text: str) -> Node:
    path, _, seed = text.rpartition(":")
    try:
        return Node(path, _hex(seed))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected SOCKET:SEED: {error}") from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    sys.exit(main())
