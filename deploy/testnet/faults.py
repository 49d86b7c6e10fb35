"""Faults of the simulated machines, given while the testnet runs.

What a machine is shows when it proves it: at its next connection, or when its peers ask it to prove
itself again, which they do each minute under a testnet's policy. Until then stands what it proved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.simulator import FaultPlan, Faults
from deploy.simulator.machine import MEASURED
from deploy.simulator.tdx_collateral import TCB_STATUSES

from . import layout
from .layout import Testnet, TestnetError, write_private

LOCK_WAIT_S = 10.0

HELP = f"""kinds of faults, which add up:
  tcb [STATUS]          its platform is OutOfDate, or one of {", ".join(TCB_STATUSES[:3])},
                        {", ".join(TCB_STATUSES[3:])}
  measurement [WHICH]   it runs another image: {", ".join(MEASURED)}
  compose [NAME]        it runs another app compose; each name is another compose hash
  debug                 its host can read its memory
  revoked               its platform certificate is revoked
  stale-collateral      nobody renewed the collateral of its platform family
  clone-of SEAT         it booted with the instance seed of that seat's machine
  report-data           its quotes are over something else than what was asked for
  replay                it gives its first quote again and again
  quote-of SEAT         it gives a quote that the machine of that seat made
  no-quotes             its quoting enclave does not answer
  none                  it is sound again
"""


def of(testnet: Testnet, seat: int) -> Faults:
    """What is wrong with the seat's machine now. Raises TestnetError."""
    testnet.node(seat)
    return _plan(testnet).nodes.get(str(testnet.socket(seat)), Faults())


async def give(directory: Path, seat: int, kind: str, value: str | None = None) -> Faults:
    """Add one fault to the seat's machine, or with ``none`` take all away; returns what it has.

    Raises TestnetError.
    """
    async with layout.locked(directory, LOCK_WAIT_S):
        testnet = layout.load(directory)
        former = of(testnet, seat)
        try:
            faults = _KINDS[kind](testnet, former, value)
        except ValueError as error:
            raise TestnetError(f"fault {kind}: {error}") from None
        plan = _plan(testnet)
        nodes = {**plan.nodes, str(testnet.socket(seat)): faults}
        write_private(testnet.fault_file, replace(plan, nodes=nodes).to_bytes())
        return faults


async def stop_pccs(directory: Path, *, is_down: bool) -> None:
    """Let the mock PCCS refuse every answer, or answer again."""
    async with layout.locked(directory, LOCK_WAIT_S):
        testnet = layout.load(directory)
        plan = replace(_plan(testnet), pccs_is_down=is_down)
        write_private(testnet.fault_file, plan.to_bytes())


def _plan(testnet: Testnet) -> FaultPlan:
    try:
        return FaultPlan.from_bytes(testnet.fault_file.read_bytes())
    except FileNotFoundError:
        return FaultPlan({})
    except ValueError as error:
        raise TestnetError(f"{testnet.fault_file} is damaged: {error}") from None


_Change = Callable[[Testnet, Faults, str | None], Faults]


def _flag(field: str) -> _Change:
    def change(testnet: Testnet, former: Faults, value: str | None) -> Faults:
        if value is not None:
            raise ValueError(f"takes no value, got {value!r}")
        flag: dict[str, Any] = {field: True}
        return replace(former, **flag)

    return change


def _text(field: str, default: str) -> _Change:
    def change(testnet: Testnet, former: Faults, value: str | None) -> Faults:
        text: dict[str, Any] = {field: default if value is None else value}
        return replace(former, **text)

    return change


def _seat(field: str) -> _Change:
    def change(testnet: Testnet, former: Faults, value: str | None) -> Faults:
        if value is None or not (value.isascii() and value.isdigit() and len(value) < 9):
            raise ValueError(f"of which seat? got {value!r}")
        seed: dict[str, Any] = {field: testnet.node(int(value)).instance_seed}
        return replace(former, **seed)

    return change


def _none(testnet: Testnet, former: Faults, value: str | None) -> Faults:
    if value is not None:
        raise ValueError(f"takes no value, got {value!r}")
    return Faults()


_KINDS: dict[str, _Change] = {
    "none": _none,
    "tcb": _text("tcb_status", "OutOfDate"),
    "measurement": _text("measurement", "mrtd"),
    "compose": _text("compose", "another"),
    "debug": _flag("is_debug"),
    "revoked": _flag("is_revoked"),
    "stale-collateral": _flag("has_stale_collateral"),
    "clone-of": _seat("clone_of"),
    "report-data": _flag("wrong_report_data"),
    "replay": _flag("replays"),
    "quote-of": _seat("quote_of"),
    "no-quotes": _flag("has_no_quotes"),
}
KINDS = tuple(_KINDS)
