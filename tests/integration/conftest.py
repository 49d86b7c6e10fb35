"""Clusters of real processes. A test that uses one is marked ``processes`` by itself."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from deploy.testnet import layout, processes
from tests.integration.anvil_chain import Chain, open_chain, running_anvil
from tests.integration.testnet import Testnet

MakeTestnet = Callable[..., Awaitable[Testnet]]
FIXTURES = {"make_testnet", "testnet", "shared_testnet"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.processes)


@pytest.fixture
def testnet_directories() -> Iterator[list[Path]]:
    """Last line: when a test was torn away before its own end, its processes end here."""
    directories: list[Path] = []
    yield directories
    left = [_kill_everything(directory) for directory in directories]
    assert not any(left), f"the test left processes behind: {left}"


@pytest.fixture
async def make_testnet(
    tmp_path: Path, testnet_directories: list[Path]
) -> AsyncIterator[MakeTestnet]:
    """``await make_testnet(nodes, weights)`` starts a cluster; all are stopped after the test."""
    made: list[Testnet] = []

    async def make(
        nodes: int = 4, weights: tuple[int, ...] | None = None, settings: tuple[str, ...] = ()
    ) -> Testnet:
        directory = tmp_path / f"testnet-{len(made)}"
        testnet_directories.append(directory)
        made.append(Testnet(directory))
        return await Testnet.up(directory, nodes, weights, settings=settings)

    yield make
    with trio.CancelScope(shield=True):
        for testnet in made:
            await testnet.down()


@pytest.fixture
async def testnet(make_testnet: MakeTestnet) -> Testnet:
    """Four nodes of weight 1, with a leader."""
    return await make_testnet(4)


@pytest.fixture(scope="module")
def shared_testnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    """Four nodes for all tests of a module that leave the cluster as they found it."""
    directory = tmp_path_factory.mktemp("shared") / "testnet"
    with stop_testnet(directory):
        yield trio.run(Testnet.up, directory, 4)


@contextmanager
def stop_testnet(directory: Path) -> Iterator[None]:
    """Whatever happens, nothing of that testnet runs afterwards."""
    try:
        yield
        trio.run(Testnet(directory).down)
    finally:
        _kill_everything(directory)


def _kill_everything(directory: Path) -> list[int]:
    """Kill whatever still runs of a testnet; the pids."""
    if not layout.exists(directory):
        return []
    left = processes.marked(layout.load(directory).mark)
    for record in left:
        processes.send(record, signal.SIGKILL)
    return [record.pid for record in left]


# --- a chain of its own, for the tests of the registry ---


@pytest.fixture(scope="module")
def anvil_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_anvil(tmp_path_factory.mktemp("anvil") / "log", slots_in_epoch=1) as url:
        yield url


@pytest.fixture
async def chain(anvil_url: str) -> AsyncIterator[Chain]:
    async with open_chain(anvil_url) as found:
        yield found
