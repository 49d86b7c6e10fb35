"""Files, ports, weights and the state file of a testnet."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from deploy.testnet import layout
from deploy.testnet.layout import ProcessRecord, TestnetError


def make(tmp_path: Path, weights: tuple[int, ...] = (1, 1, 1, 1)) -> layout.Testnet:
    return layout.create(tmp_path / "t", weights, 30_000)


def test_weights_default_to_one_each() -> None:
    assert layout.parse_weights(None, 4) == (1, 1, 1, 1)


def test_weights_are_read_in_order() -> None:
    assert layout.parse_weights("3, 2,2,2", 4) == (3, 2, 2, 2)


@pytest.mark.parametrize(
    "text", ["1,1,1", "1,1,1,1,1", "0,1,1,1", "-1,1,1,1", "1.5,1,1,1", "1,,1,1", "٣,1,1,1",
             "1000001,1,1,1", "10000000000000000000000,1,1,1", ""],
)  # fmt: skip
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(TestnetError):
        layout.parse_weights(text, 4)


@pytest.mark.parametrize("nodes", [0, -1, layout.NODES_MAX + 1])
def test_a_wrong_number_of_nodes_is_refused(nodes: int) -> None:
    with pytest.raises(TestnetError, match="--nodes"):
        layout.parse_weights(None, nodes)


def test_no_two_things_share_a_port_even_with_the_most_nodes(tmp_path: Path) -> None:
    testnet = layout.create(tmp_path / "t", (1,) * layout.NODES_MAX, 30_000)
    assert len(testnet.ports()) == 2 + 2 * layout.NODES_MAX
    assert testnet.p2p_port(1) == 30_011
    assert testnet.api_port(1) == 30_051


def test_the_state_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    testnet = make(tmp_path, (3, 2)).with_node_process(2, ProcessRecord(77, 123))
    testnet.save()
    assert layout.load(testnet.directory) == testnet


def test_a_seats_later_machine_has_its_own_agent_and_socket(tmp_path: Path) -> None:
    testnet = make(tmp_path, (3, 2))
    first = testnet.socket(2)
    agent = ProcessRecord(88, 9)
    seed = "ab" * 20
    testnet = testnet.with_node(layout.NodeRecord(2, 2, seed, ProcessRecord(77, 1), agent))
    testnet = testnet.with_node(layout.NodeRecord(3, 5, "cd" * 20))
    testnet.save()
    assert layout.load(testnet.directory) == testnet
    assert testnet.socket(2) != first and testnet.socket(2).parent == first.parent
    assert testnet.processes() == {"node 2": ProcessRecord(77, 1), "agent 2": agent}
    assert [node.seat for node in testnet.nodes] == [1, 2, 3]


def test_the_state_file_is_for_the_owner_alone(tmp_path: Path) -> None:
    testnet = make(tmp_path)
    mode = (testnet.directory / layout.STATE_FILE).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_missing_testnet_is_named(tmp_path: Path) -> None:
    with pytest.raises(TestnetError, match="no testnet in"):
        layout.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 1}', b'{"format": 9}'])
def test_a_damaged_state_file_is_an_error_and_no_traceback(tmp_path: Path, content: bytes) -> None:
    (tmp_path / layout.STATE_FILE).write_bytes(content)
    with pytest.raises(TestnetError, match="damaged"):
        layout.load(tmp_path)


def test_a_damaged_process_record_is_an_error(tmp_path: Path) -> None:
    testnet = make(tmp_path)
    path = testnet.directory / layout.STATE_FILE
    values = json.loads(path.read_text())
    values["chain"] = {"pid": "x", "start_ticks": 1}
    path.write_text(json.dumps(values))
    with pytest.raises(TestnetError, match="damaged"):
        layout.load(testnet.directory)


def test_an_oversized_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / layout.STATE_FILE).write_bytes(b" " * (layout.STATE_BYTES_MAX + 1))
    with pytest.raises(TestnetError, match="larger"):
        layout.load(tmp_path)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TestnetError, match="not empty"):
        layout.create(tmp_path, (1,), 30_000)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_removal_takes_the_testnets_files_and_nothing_else(tmp_path: Path) -> None:
    testnet = make(tmp_path)
    (testnet.directory / "notes.txt").write_text("mine")
    layout.remove(testnet)
    assert [entry.name for entry in testnet.directory.iterdir()] == ["notes.txt"]


def test_removal_takes_the_folder_when_it_is_empty(tmp_path: Path) -> None:
    testnet = make(tmp_path)
    layout.remove(testnet)
    assert not testnet.directory.exists()


def test_sockets_fit_into_a_socket_address_even_in_a_deep_folder(tmp_path: Path) -> None:
    testnet = layout.create(tmp_path / ("d" * 120), (1,), 30_000)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(testnet.socket(layout.NODES_MAX)))
        assert stat.S_IMODE(testnet.socket_dir.stat().st_mode) == 0o700
    finally:
        layout.remove(testnet)
    assert not testnet.socket_dir.exists()


def test_a_taken_port_is_named_with_its_user() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(TestnetError, match=rf"{port} for node 2 \(API\).*--base-port"):
            layout.check_ports({port: "node 2 (API)"})


def test_a_port_whose_connections_were_just_closed_counts_as_free() -> None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server here does
    server.bind(("127.0.0.1", 0))
    server.listen()
    port = server.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = server.accept()
    accepted.close()  # closes first: this side keeps TIME_WAIT on the server's port
    client.close()
    server.close()
    layout.check_ports({port: "anvil"})


@pytest.mark.parametrize("port", [0, 80, 65_500, 70_000])
def test_a_base_port_without_room_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(TestnetError, match="--base-port"):
        layout.create(tmp_path / "t", (1,), port)


async def test_two_commands_cannot_change_one_testnet_at_once(tmp_path: Path) -> None:
    async with layout.locked(tmp_path):
        with pytest.raises(TestnetError, match="another command"):
            async with layout.locked(tmp_path, wait_s=0.1):
                pass
    async with layout.locked(tmp_path):
        pass


async def test_a_short_command_is_waited_for(tmp_path: Path, nursery: trio.Nursery) -> None:
    held = trio.Event()

    async def hold() -> None:
        async with layout.locked(tmp_path):
            held.set()
            await trio.testing.wait_all_tasks_blocked()  # the other one waits by now

    nursery.start_soon(hold)
    await held.wait()
    async with layout.locked(tmp_path, wait_s=60):
        pass


def test_missing_tools_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(TestnetError, match="make setup"):
        layout.find_anvil(tmp_path)


def test_an_unknown_seat_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(TestnetError, match=r"no seat 9 .*1, 2, 3, 4"):
        make(tmp_path).node(9)


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    layout.write_private(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk"):
        layout.write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


async def test_a_lock_leaves_nothing_in_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    async with layout.locked(tmp_path):
        pass
    async with layout.locked(tmp_path / "new"):
        pass
    assert os.listdir(tmp_path) == ["thesis.txt"]
