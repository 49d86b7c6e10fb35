"""Starting, stopping, interrupting: whatever happens, no process stays. Daemons are stand-ins."""

from __future__ import annotations

import json
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from deploy.testnet import agents, chain, cli, launch, layout, nodes, processes, survey
from deploy.testnet.layout import ProcessRecord, Testnet, TestnetError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Answers /v1/status like a daemon that sees seat 1 as leader of term 7.
STAND_IN = """
import http.server, json, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(dict(
            seat=int(sys.argv[2]), state="active", height=5, epoch=0, term=7, view="7.1", leader=1,
            peers=3, incarnation=1, state_hash="aa", lag=0, weight=1, insecure=["simulator"],
        )).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def free_port_block() -> int:
    # Below the range from which the kernel takes ports for outgoing connections.
    for base in random.sample(range(20_000, 32_000, 100), 50):
        try:
            offsets = (0, *range(11, 16), *range(51, 56))
            layout.check_ports({base + offset: "" for offset in offsets})
        except TestnetError:
            continue
        return base
    raise RuntimeError("no free ports")


def sleeper(testnet: Testnet) -> ProcessRecord:
    return processes.spawn(SLEEP, log=testnet.log("x"), mark=testnet.mark, cwd=testnet.directory)


def stand_in(testnet: Testnet, seat: int) -> ProcessRecord:
    return processes.spawn(
        [sys.executable, "-c", STAND_IN, str(testnet.api_port(seat)), str(seat)],
        log=testnet.node_log(seat),
        mark=testnet.mark,
        cwd=testnet.directory,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "t"
    yield path
    if layout.exists(path):
        for record in processes.marked(layout.load(path).mark):
            processes.send(record, signal.SIGKILL)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
async def running(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Testnet]:
    """Four stand-in daemons that answer; chain and agents are sleepers."""
    monkeypatch.setattr(nodes, "start", stand_in)
    testnet = layout.create(directory, (1, 1, 1, 1), free_port_block())
    testnet = replace(testnet, chain=sleeper(testnet), agents=sleeper(testnet))
    for seat in range(1, 5):
        testnet = testnet.with_node_process(seat, stand_in(testnet, seat))
    testnet.save()
    for seat in range(1, 5):
        await nodes.wait_answers(testnet, seat, 30)
    yield testnet
    with trio.CancelScope(shield=True):
        await processes.stop(processes.marked(testnet.mark), 5)


async def test_status_shows_dead_and_paused_nodes_without_waiting_for_them(
    running: Testnet,
) -> None:
    await cli.kill(running, 3)
    await cli.pause(running, 4)
    seen = await survey.take(running)
    assert [node.state for node in seen.nodes] == ["active", "active", "dead", "paused"]
    assert seen.leader is None
    assert any("only 2 of 4" in line for line in seen.why())
    await cli.resume(running, 4)
    seen = await survey.take(running)
    assert (seen.leader, seen.term) == (1, 7)


async def test_a_hanging_node_costs_a_second_and_not_the_answer(running: Testnet) -> None:
    # A stopped process still accepts connections (the kernel does), so it hangs every reader.
    record = running.node(2).process
    assert record is not None
    client_sees_it_running = replace(record)
    processes.send(record, signal.SIGSTOP)
    assert await processes.wait_paused(client_sees_it_running, True, 20)
    with trio.fail_after(30):
        seen = await survey.take(running)
    assert seen.leader == 1
    assert seen.nodes[1].state == "paused"


async def test_a_dead_node_starts_again_and_only_a_dead_one(running: Testnet) -> None:
    with pytest.raises(TestnetError, match="seat 2 runs already"):
        await cli.start(running.directory, 2, 30)
    await cli.kill(running, 2)
    with pytest.raises(TestnetError, match="seat 2 is dead"):
        await cli.kill(running, 2)
    again = await cli.start(running.directory, 2, 30)
    assert layout.load(running.directory).node(2).process == again.node(2).process
    assert (await survey.take(again)).nodes[1].state == "active"


async def test_a_node_that_ends_while_starting_is_reported_with_its_log(
    running: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli.kill(running, 2)

    def broken(testnet: Testnet, seat: int) -> ProcessRecord:
        return processes.spawn(
            [sys.executable, "-c", "raise SystemExit('no seat for me')"],
            log=testnet.node_log(seat),
            mark=testnet.mark,
            cwd=testnet.directory,
        )

    monkeypatch.setattr(nodes, "start", broken)
    with pytest.raises(TestnetError, match="no seat for me"):
        await cli.start(running.directory, 2, 30)


async def test_what_is_not_paused_cannot_be_resumed(running: Testnet) -> None:
    with pytest.raises(TestnetError, match="not paused"):
        await cli.resume(running, 1)


async def test_down_stops_everything_the_unrecorded_too_and_removes_the_files(
    running: Testnet,
) -> None:
    stray = sleeper(running)
    await cli.kill(running, 3)
    await cli.pause(running, 4)
    await cli.down(running.directory)
    assert not processes.is_alive(stray)
    assert processes.marked(running.mark) == []
    assert not running.directory.exists()


async def test_down_with_keep_leaves_the_logs(running: Testnet) -> None:
    await cli.down(running.directory, keep=True)
    assert processes.marked(running.mark) == []
    assert running.node_log(1).exists()


async def test_down_works_when_everything_is_dead_already(running: Testnet) -> None:
    for record in processes.marked(running.mark):
        processes.send(record, signal.SIGKILL)
        assert await processes.wait_gone(record, 20)
    await cli.down(running.directory)
    assert not running.directory.exists()


async def test_down_never_touches_a_process_that_only_has_the_same_pid(
    running: Testnet, tmp_path: Path
) -> None:
    other = processes.spawn(SLEEP, log=tmp_path / "log", mark="other", cwd=tmp_path)
    try:
        await cli.kill(running, 1)
        reused = ProcessRecord(other.pid, other.start_ticks - 5)
        running.with_node_process(1, reused).save()
        await cli.down(running.directory)
        assert processes.is_alive(other)
    finally:
        processes.send(other, signal.SIGKILL)


async def test_down_without_a_testnet_is_an_error(directory: Path) -> None:
    with pytest.raises(TestnetError, match="no testnet"):
        await cli.down(directory)
    assert not list(directory.parent.glob("t*"))


async def test_up_refuses_a_running_testnet_and_leaves_it_alone(
    running: Testnet, lines: list[str]
) -> None:
    with pytest.raises(TestnetError, match="a testnet runs in"):
        await launch.bring_up(running.directory, (1,), free_port_block(), lines.append)
    assert (await survey.take(running)).leader == 1


async def test_up_refuses_while_only_unrecorded_processes_are_left(
    running: Testnet, lines: list[str]
) -> None:
    for record in running.processes().values():
        processes.send(record, signal.SIGKILL)
        assert await processes.wait_gone(record, 20)
    stray = sleeper(running)
    with pytest.raises(TestnetError, match="unrecorded"):
        await launch.bring_up(running.directory, (1,), free_port_block(), lines.append)
    assert processes.is_alive(stray)


async def test_a_failure_half_way_leaves_no_process_and_the_logs(
    directory: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(chain, "start", sleeper)

    async def ready(_: Testnet) -> None:
        await trio.lowlevel.checkpoint()

    def refuse(_: Testnet) -> ProcessRecord:
        raise TestnetError("no agents today")

    monkeypatch.setattr(chain, "wait_ready", ready)
    monkeypatch.setattr(agents, "start", refuse)
    with pytest.raises(TestnetError, match="no agents today"):
        await launch.bring_up(directory, (1, 1), free_port_block(), lines.append)
    testnet = layout.load(directory)
    assert testnet.chain is not None
    assert not processes.is_alive(testnet.chain)
    assert processes.marked(testnet.mark) == []
    assert testnet.log("x").exists()


async def test_a_deadline_that_passes_says_what_is_missing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(chain, "start", sleeper)

    async def never(_: Testnet) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(chain, "wait_ready", never)
    with pytest.raises(TestnetError, match=r"not up after 0 s\n.*contract are not ready"):
        await launch.bring_up(directory, (1,), free_port_block(), lines.append, deadline_s=0.1)
    assert processes.marked(layout.load(directory).mark) == []


async def test_up_clears_what_a_stopped_testnet_left(
    running: Testnet, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    await cli.down(running.directory, keep=True)
    testnet = launch.prepare(running.directory, (1, 1), free_port_block(), lines.append)
    assert testnet.mark != running.mark
    assert "removing what is left" in lines[0]
    assert not testnet.node_dir(4).exists()


async def test_taken_ports_are_found_before_anything_starts(
    running: Testnet, tmp_path: Path, lines: list[str]
) -> None:
    with pytest.raises(TestnetError, match="ports in use"):
        await launch.bring_up(tmp_path / "second", (1,) * 4, running.base_port, lines.append)
    assert not layout.exists(tmp_path / "second")


# The real command as a process of its own, with sleepers for everything it starts.
FOLLOWED = """
import sys, trio
from dataclasses import replace
from deploy.testnet import cli, launch, processes
async def steps(testnet, say):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    def start(text):
        return processes.spawn([sys.executable, "-c", text], log=testnet.log("x"),
                               mark=testnet.mark, cwd=testnet.directory)
    testnet = replace(testnet, chain=start("import time; time.sleep(600)"))
    testnet = testnet.with_node_process(1, start(code))
    testnet.save()
    say("half way")
    if sys.argv[1] == "slow":
        await trio.sleep_forever()
    return testnet
launch._steps = steps
sys.exit(cli.main(sys.argv[2:]))
"""


class Followed:
    """``testnet up`` without --detach, watched by its output."""

    def __init__(self, directory: Path, mode: str) -> None:
        self.directory = directory
        self.output = directory.parent / f"out-{secrets.token_hex(4)}"
        arguments = ["up", "--nodes", "1", "--base-port", str(free_port_block())]
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", FOLLOWED, mode, *arguments, "--dir", str(directory)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def until(self, condition: Callable[[str], bool]) -> str:
        with trio.fail_after(60):
            while not condition(text := self.output.read_text()):
                assert self.process.poll() is None, text
                await trio.sleep(0.02)
        return text

    async def ended(self) -> int:
        with trio.fail_after(60):
            while (status := self.process.poll()) is None:
                await trio.sleep(0.02)
        return status


@pytest.fixture
def follow(directory: Path) -> Iterator[Callable[[str], Followed]]:
    started: list[Followed] = []

    def start(mode: str) -> Followed:
        started.append(Followed(directory, mode))
        return started[-1]

    yield start
    for followed in started:
        followed.process.kill()
        followed.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interrupt_while_following_stops_everything(
    follow: Callable[[str], Followed], number: signal.Signals
) -> None:
    followed = follow("fast")
    await followed.until(lambda text: "weight 0 of 1" in text)
    mark = layout.load(followed.directory).mark
    assert len(processes.marked(mark)) == 2
    followed.process.send_signal(number)
    await followed.until(lambda text: "stopping" in text)
    followed.process.send_signal(number)  # the daemon ignores SIGTERM: this one skips the grace
    assert await followed.ended() == 0
    assert processes.marked(mark) == []
    assert "everything is stopped" in followed.output.read_text()


def follow_into_a_pipe(directory: Path) -> subprocess.Popen[bytes]:
    arguments = ["up", "--nodes", "1", "--base-port", str(free_port_block())]
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOWED, "fast", *arguments, "--dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


async def test_a_reader_that_leaves_stops_everything_too(directory: Path) -> None:
    process = follow_into_a_pipe(directory)
    try:
        assert process.stdout is not None
        assert b"half way" in await trio.to_thread.run_sync(process.stdout.readline)
        # The first table is out: nothing more is to be said, so no write can fail.
        assert await trio.to_thread.run_sync(process.stdout.readline)
        mark = layout.load(directory).mark
        process.stdout.close()
        stubborn = layout.load(directory).node(1).process
        assert stubborn is not None
        with trio.fail_after(60):
            while processes.is_alive(layout.load(directory).chain) or processes.marked(mark):
                if process.poll() is None:
                    processes.send(stubborn, signal.SIGKILL)
                await trio.sleep(0.1)
            assert await trio.to_thread.run_sync(process.wait) != 0
    finally:
        process.kill()
        process.wait()


async def test_an_interrupt_half_way_up_stops_everything(
    follow: Callable[[str], Followed],
) -> None:
    followed = follow("slow")
    await followed.until(lambda text: "half way" in text)
    mark = layout.load(followed.directory).mark
    followed.process.send_signal(signal.SIGINT)
    assert await followed.ended() == cli.EXIT_INTERRUPTED
    assert processes.marked(mark) == []


async def test_following_ends_when_another_command_stops_the_testnet(
    follow: Callable[[str], Followed],
) -> None:
    followed = follow("fast")
    await followed.until(lambda text: "weight 0 of 1" in text)
    await launch.stop_everything(layout.load(followed.directory), grace_s=0.1)
    assert await followed.ended() == 0
    assert "stopped by another command" in followed.output.read_text()


def test_the_exit_status_and_the_message_of_a_refusal(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--dir", str(directory)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("testnet: no testnet in")


def test_a_signal_that_does_not_end_a_process_is_no_kill() -> None:
    with pytest.raises(SystemExit):
        cli.main(["kill", "1", "--signal", "STOP"])


async def test_the_json_status_is_one_object(running: Testnet) -> None:
    seen = json.loads(json.dumps((await survey.take(running)).as_json()))
    assert (seen["leader"], seen["term"], seen["height"]) == (1, 7, 5)
    assert [row["seat"] for row in seen["nodes"]] == [1, 2, 3, 4]
    assert all(row["insecure"] == ["simulator"] for row in seen["nodes"])
