"""What a node does not load, and that whoever wants it still gets it. In processes of their own:
in this one others have loaded all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from memory_node import make_config


def ran(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={"PYTHONPATH": ":".join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LINKS = """
import sys, trio
from coincurve import PrivateKey
from node.network import Mesh, PeerAddress, PeerUp

def mesh(seat):
    return Mesh(secret=bytes([seat]) * 32, cluster_id=bytes(32), seat=seat,
                listen="/ip4/127.0.0.1/tcp/0")

def address(of):
    key = PrivateKey(bytes([of.seat]) * 32).public_key.format()
    return PeerAddress(of.seat, key, of.listen_address)

async def main():
    one, two = mesh(1), mesh(2)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        await nursery.start(two.run)
        one.set_members([address(two)])
        two.set_members([address(one)])
        with trio.fail_after(60):
            assert isinstance(await one.events.receive(), PeerUp)
            assert isinstance(await two.events.receive(), PeerUp)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_two_members_link_without_what_else_the_library_can_do() -> None:
    program = LINKS + (
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print(sorted(name for name in sys.modules if name.startswith('libp2p.')))"
    )
    roots, modules = ran(program).splitlines()[-2:]
    for other in ("Crypto", "aioquic", "requests", "websockets", "zeroconf", "dns"):
        assert f"'{other}'" not in roots
    for part in ("host", "kad_dht", "network.swarm", "relay", "stream_muxer", "transport"):
        assert f"'libp2p.{part}'" not in modules


def test_after_a_node_the_library_can_be_had_whole() -> None:
    program = (
        "import node.network.identity as ours\n"
        "from libp2p import KeyPair, new_host\n"
        "from libp2p.transport.quic.stream import QUICStream\n"
        "assert callable(new_host) and QUICStream is not object\n"
        "assert KeyPair is ours.KeyPair\n"
    )
    ran(program)


def test_a_key_of_another_kind_is_refused_unread() -> None:
    program = (
        "import node.network.identity as ours\n"
        "from libp2p.crypto.rsa import create_new_key_pair\n"
        "from libp2p.crypto.serialization import deserialize_public_key\n"
        "foreign = create_new_key_pair(2048).public_key.serialize()\n"
        "try: deserialize_public_key(foreign)\n"
        "except ours.BadNodeKey: pass\n"
        "else: raise SystemExit('it was read')\n"
        "own = ours.key_pair(bytes([1]) * 32).public_key\n"
        "assert deserialize_public_key(own.serialize()) == own\n"
    )
    ran(program)


def test_a_library_that_is_there_whole_is_taken_as_it_is() -> None:
    program = (
        "import libp2p, libp2p.transport.quic.stream as quic\n"
        "import node.network.identity as ours\n"
        "assert ours.KeyPair is libp2p.KeyPair\n"
        "import sys\n"
        "assert sys.modules['libp2p'] is libp2p and quic.QUICStream is not object\n"
    )
    ran(program)


def test_a_daemon_has_no_coloured_tracebacks_and_later_ones_may(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(make_config(tmp_path).to_toml())
    program = (
        "import gc, sys, trio, node.cli\n"
        "loaded = []\n"
        "trio.run = lambda *_: loaded.extend(sys.modules) or 0\n"
        f"assert node.cli.main(['run', '--config', {str(file)!r}]) == 0\n"
        "assert gc.isenabled() and gc.get_freeze_count()\n"
        "assert 'node.daemon' in loaded and 'structlog' in loaded\n"
        "assert 'rich.text' not in loaded and 'click.core' not in loaded\n"
        "import rich.text, click.core\n"
    )
    ran(program)


def test_of_modules_that_are_missing_nothing_is_left() -> None:
    program = (
        "import sys\n"
        "from node.spared import bare, without\n"
        "with without('wave'):\n"
        "    try: import wave\n"
        "    except ModuleNotFoundError: pass\n"
        "    else: raise SystemExit('it was imported')\n"
        "import wave\n"
        "with without('wave'):\n"
        "    import wave\n"
        "try:\n"
        "    with bare('email', 'email.nothing'): pass\n"
        "except ModuleNotFoundError as error: assert error.name == 'email.nothing'\n"
        "else: raise SystemExit('a package that does not exist')\n"
        "import email\n"
        "assert email.message_from_string\n"
    )
    ran(program)
