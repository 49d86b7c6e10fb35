"""How the daemon ends: the exit status tells a supervisor whether to start it again."""

from __future__ import annotations

import resource
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
from small_cluster import validator_set

from attest.keys import SecretKey
from chain import ChainError, Membership
from node import daemon
from node.config import ApiConfig, ChainConfig, Config, InsecureConfig, NodeConfig
from node.daemon import EXIT_FAILED, EXIT_SAFETY, _exit_status, durations, run_daemon
from node.driver import SafetyStop
from node.lookups import NameLookups
from node.service import NodeService
from node.statelock import StateLock
from node.storage import StorageError


def config(tmp_path: Path) -> Config:
    return Config(
        node=NodeConfig(1, tmp_path / "data", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/0"),
        chain=ChainConfig(1, bytes(20), rpc=("http://127.0.0.1:1",), kms_roots=()),
        insecure=InsecureConfig(no_attestation=True, single_rpc=True),
    )


def ending(*errors: BaseException) -> tuple[int, list[str]]:
    """Exit status and events of a daemon that these errors ended."""
    group = BaseExceptionGroup("services", [BaseExceptionGroup("inner", list(errors))])
    with structlog.testing.capture_logs() as lines:
        status = _exit_status(group)
    return status, [line["event"] for line in lines]


def test_a_stop_for_safety_has_a_status_of_its_own_whatever_fails_beside_it() -> None:
    assert ending(SafetyStop("superseded")) == (EXIT_SAFETY, ["safety_stop"])
    status, events = ending(OSError("closed"), SafetyStop("diverged"), ValueError("x"))
    assert status == EXIT_SAFETY and events == ["failed", "safety_stop", "crashed"]


@pytest.mark.parametrize("error", [StorageError("full"), ChainError("no chain"), OSError("in use")])
def test_what_can_go_wrong_is_one_line(error: Exception) -> None:
    assert ending(error) == (EXIT_FAILED, ["failed"])


def test_a_defect_is_shown_whole() -> None:
    assert ending(ZeroDivisionError()) == (EXIT_FAILED, ["crashed"])


async def test_it_does_not_start_as_if_it_checked_quotes(tmp_path: Path) -> None:
    pretending = replace(config(tmp_path), insecure=InsecureConfig())
    with structlog.testing.capture_logs() as lines:
        assert await run_daemon(pretending) == EXIT_FAILED
    assert lines[0]["event"] == "refused_to_start" and "no_attestation" in lines[0]["reason"]


async def test_a_taken_port_ends_it_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        api = ApiConfig(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with structlog.testing.capture_logs() as lines, trio.fail_after(30):
            assert await run_daemon(replace(config(tmp_path), api=api)) == EXIT_FAILED
    (line,) = [line for line in lines if line["log_level"] == "critical"]
    assert line["event"] == "failed" and line["kind"] == "ApiError"
    assert isinstance(trio.socket.set_custom_hostname_resolver(None), NameLookups)


def test_it_permits_itself_as_many_open_files_as_its_bounds_need() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with structlog.testing.capture_logs() as lines:
            daemon.permit_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1] and (soft == daemon.FILES_MAX or lines)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_second_daemon_on_one_directory_reads_and_writes_nothing(tmp_path: Path) -> None:
    directory = config(tmp_path).node.state_dir
    with StateLock(directory), structlog.testing.capture_logs() as lines, trio.fail_after(30):
        api = ApiConfig(listen="127.0.0.1:0")
        assert await run_daemon(replace(config(tmp_path), api=api)) == EXIT_FAILED
    (line,) = [line for line in lines if line["log_level"] == "critical"]
    assert line["kind"] == "StorageError" and "in use" in line["reason"]
    assert [path.name for path in directory.iterdir()] == ["lock"]


async def test_its_connections_to_the_chain_are_closed_when_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Agent:
        def __init__(self, _: str | None) -> None: ...
        async def wait_ready(self, on_attempt: Any) -> None: ...

    async def identity(*_: Any, **__: Any) -> Any:
        key = SecretKey(b"\1" * 32)
        return SimpleNamespace(secret=key, node_key=b"\2" * 33, instance_id=b"\3" * 20, scheme=0)

    monkeypatch.setattr(daemon, "GuestAgent", Agent)
    monkeypatch.setattr(daemon, "obtain_identity", identity)
    service = NodeService(config(tmp_path))
    closed: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon._serve, service)
        with trio.fail_after(20):
            while service.registry is None or service.registry.last_error is None:
                await trio.sleep(0.01)
        for endpoint in service.registry.reader.endpoints:
            close = endpoint.aclose

            async def closing(close: Any = close, name: str = endpoint.name) -> None:
                await close()
                closed.append(name)

            monkeypatch.setattr(endpoint, "aclose", closing)
        nursery.cancel_scope.cancel()
    assert closed == ["127.0.0.1:1"]


async def test_a_remembered_founding_set_is_held_against_the_chain(autojump_clock: Any) -> None:
    ours = Membership(1, bytes(20), 5, b"h" * 32, 1, bytes(32), 3, b"d" * 32, ())

    class Registry:
        def __init__(self, *answers: Any) -> None:
            self.answers = list(answers)

        async def genesis(self) -> Any:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    registry: Any = Registry(ChainError("no endpoint answers"), None, ours)
    await daemon._check_genesis(registry, ours)
    assert registry.answers == []
    other: Any = Registry(ChainError("no endpoint answers"), replace(ours, digest=b"e" * 32))
    with pytest.raises(SafetyStop, match="not the registry's"):
        await daemon._check_genesis(other, ours)


def test_the_cap_of_the_leader_timer_is_a_multiple_of_it(tmp_path: Path) -> None:
    assert durations(config(tmp_path).timing).growth_max == 8
    short = replace(config(tmp_path).timing, leader_timeout_max_ms=10)
    assert durations(short).growth_max == 1


@pytest.mark.parametrize(("linked_after", "waits_s"), [(5, 0.5), (10_000, daemon.LINKS_WAIT_S)])
async def test_the_core_starts_when_a_quorum_is_linked_or_after_a_moment(
    autojump_clock: Any, linked_after: int, waits_s: float
) -> None:
    changes = 0

    async def wait_links() -> None:
        nonlocal changes
        await trio.sleep(0.1)
        changes += 1

    def linked() -> set[int]:
        return {2} if changes >= linked_after else set()

    mesh: Any = SimpleNamespace(seat=1, linked=linked, wait_links=wait_links)
    engine: Any = SimpleNamespace(validators=validator_set({1: 2, 2: 2, 3: 1}))
    begun = trio.current_time()
    await daemon._wait_linked(mesh, engine)
    assert trio.current_time() - begun == pytest.approx(waits_s)
