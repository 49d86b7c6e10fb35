"""The set-up script, with recorders in place of uv, npm, apt-get and what a machine may lack."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOOLS = (
    "awk",
    "cat",
    "chmod",
    "cut",
    "dirname",
    "env",
    "head",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sha256sum",
    "sort",
)
PYTHON = Path(getattr(sys, "_base_executable", sys.executable))

UV = f"""
[ "$1" != --version ] || {{ echo "uv 999.0"; exit; }}
echo "uv $*" >>"$LOG"
mkdir -p .venv/bin
for name in python dstack-cluster; do
    printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' >.venv/bin/$name
    chmod +x .venv/bin/$name
done
"""
NPM = """
echo "npm $*" >>"$LOG"
mkdir -p node_modules
"""
NODE = """
[ "$1" != --version ] || { echo "v$NODE_VERSION"; exit; }
echo "${NODE_VERSION%%.*}"
"""
APT_GET = """
echo "apt-get $*" >>"$LOG"
"""
APT_CACHE = """
echo "$2:"
echo "  Candidate: $CANDIDATE"
"""


SCRIPT = (ROOT / "deploy/setup.sh").read_text()
COMPILED = SCRIPT.partition("-m compileall -q ")[2].partition(" ||")[0].split()


class Machine:
    """A checkout, and a PATH on which only what is named here can be found."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "checkout"
        self.log = directory / "log"
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in (*(s for s in COMPILED if "*" not in s), "contracts/evm"):
            (self.checkout / name).mkdir(parents=True)
        (self.checkout / "contracts/__init__.py").touch()
        for name in ("deploy/setup.sh", "contracts/evm/package-lock.json"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in ("uv.lock", "pyproject.toml"):
            (self.checkout / name).write_text(name)
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        (self.bin / "python3").symlink_to(PYTHON)
        scripts = {"uv": UV, "npm": NPM, "node": NODE, "apt-get": APT_GET, "apt-cache": APT_CACHE}
        for name, script in scripts.items():
            self.has(name, script)
        self.user(0)

    def has(self, name: str, script: str = "exit 0") -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}")
        (self.bin / name).chmod(0o755)

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def user(self, number: int) -> None:
        self.has("id", f"echo {number}")

    def set_up(self, **settings: str) -> tuple[int, str, list[str]]:
        """The exit status, what was printed, and the commands that changed something."""
        self.log.write_text("")
        environment = {
            "PATH": str(self.bin),
            "HOME": str(self.log.parent),
            "LOG": str(self.log),
            "NODE_VERSION": "20.1.0",
            "CANDIDATE": "(none)",
            **settings,
        }
        done = subprocess.run(
            [str(self.checkout / "deploy/setup.sh")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.has("gcc")  # its preprocessor finds every header
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("this interpreter has no headers")
    return machine


def _says_everything_is_there(machine: Machine) -> None:
    status, said, commands = machine.set_up()
    assert (status, said, commands) == (0, "", [])


def test_a_second_run_does_nothing(machine: Machine) -> None:
    status, said, commands = machine.set_up()
    assert status == 0, said
    assert [command.split()[0] for command in commands] == ["uv", "npm"]
    _says_everything_is_there(machine)


def test_what_is_compiled_beforehand_is_there() -> None:
    assert "deploy" in COMPILED
    assert [source for source in COMPILED if not list(ROOT.glob(source))] == []


def test_a_checkout_that_was_moved_gets_a_virtual_environment_of_its_own(machine: Machine) -> None:
    machine.set_up()
    (machine.checkout / ".venv" / "of the old place").touch()
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved here"))
    status, said, commands = machine.set_up()
    assert status == 0, said
    assert [command.split()[0] for command in commands] == ["uv"]
    assert not (machine.checkout / ".venv" / "of the old place").exists()
    _says_everything_is_there(machine)


def test_a_virtual_environment_that_loads_nothing_any_more_is_made_anew(machine: Machine) -> None:
    """As after the system was upgraded to another Python, or without libgmp."""
    machine.set_up()
    (machine.checkout / ".venv/bin/python").write_text("#!/bin/sh\nexit 1\n")
    status, said, commands = machine.set_up()
    assert status == 0, said
    assert [command.split()[0] for command in commands] == ["uv"]


def test_an_interpreter_that_is_asked_for_is_taken_and_stays(machine: Machine) -> None:
    machine.set_up()
    other = machine.bin / "python-of-mine"
    other.symlink_to(PYTHON)
    _, said, commands = machine.set_up(PYTHON="python-of-mine")
    assert [command.endswith(f"--python {other}") for command in commands] == [True], said
    _says_everything_is_there(machine)
    (machine.checkout / "uv.lock").write_text("another")
    _, said, commands = machine.set_up()
    assert [command.endswith(f"--python {other}") for command in commands] == [True], said


def test_an_interpreter_that_is_asked_for_and_not_there_is_not_replaced(machine: Machine) -> None:
    status, said, commands = machine.set_up(PYTHON="python2.7")
    assert (status, commands) == (1, [])
    assert "PYTHON=python2.7 is no Python" in said


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_an_interpreter_that_is_too_old_or_too_new_is_none(machine: Machine, version: str) -> None:
    machine.lacks("python3")
    machine.has("python3", f"echo {version}")
    status, said, commands = machine.set_up(CANDIDATE=f"{version}.2-1")
    assert (status, commands) == (1, ["apt-get update -qq"])
    assert "no Python >= 3.11 and < 3.14 found" in said


def _lacks_node_and_compiler(machine: Machine) -> None:
    machine.lacks("node", "npm", "gcc")


def _lacks_python(machine: Machine) -> None:
    machine.lacks("python3")


@pytest.mark.parametrize(
    ("offered", "lack", "packages"),
    [
        (
            "20.19.2+dfsg-1",
            _lacks_node_and_compiler,
            "nodejs npm gcc libc6-dev libgmp-dev libgmp10",
        ),
        (
            "3.13.5-1",
            _lacks_python,
            "python3 python3-venv python3-dev gcc libc6-dev libgmp-dev libgmp10",
        ),
    ],
)
def test_all_that_is_missing_is_said_in_one_line_before_any_work(
    machine: Machine, offered: str, lack: Callable[[Machine], None], packages: str
) -> None:
    lack(machine)
    machine.user(1000)
    status, said, commands = machine.set_up(CANDIDATE=offered)
    assert (status, commands) == (1, [])
    assert said.endswith(f"apt-get install -y --no-install-recommends {packages}\n")


def test_root_gets_what_is_missing_installed(machine: Machine) -> None:
    machine.lacks("node")
    machine.has("apt-get", f"{APT_GET}\n[ $1 = update ] || mv $BIN/later $BIN/node\n")
    machine.has("later", NODE)
    status, said, commands = machine.set_up(CANDIDATE="24.4-1", BIN=str(machine.bin))
    assert status == 0, said
    assert commands[-3].endswith("--no-install-recommends nodejs npm")
    assert [command.split()[0] for command in commands[-2:]] == ["uv", "npm"]


def test_what_apt_says_is_shown_when_it_fails(machine: Machine) -> None:
    machine.lacks("gcc")
    machine.has(
        "apt-get", "echo these are the lists; [ $1 = update ] || { echo disk full; exit 1; }"
    )
    status, said, _ = machine.set_up()
    assert status == 1
    assert "disk full" in said
    assert "these are the lists\nsetup:" not in said


@pytest.mark.parametrize(
    ("version", "message"), [("18.19.0", "is v18.19.0, too old; Node >= 20"), ("", "no Node found")]
)
def test_a_node_that_is_too_old_or_not_to_be_had_is_said_before_any_work(
    machine: Machine, version: str, message: str
) -> None:
    if not version:
        machine.lacks("node")
    machine.user(1000)
    status, said, commands = machine.set_up(NODE_VERSION=version, CANDIDATE="18.20.4+dfsg-1")
    assert (status, commands) == (1, [])
    assert message in said
