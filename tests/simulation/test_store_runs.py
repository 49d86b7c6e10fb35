"""Leases, transactions and ranges in the simulated cluster, against the model of the oracle."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from consensus import limits
from consensus.commands import (
    Action,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    encode_command,
)
from consensus.machine import Machine
from consensus.outcomes import Applied
from consensus.types import Block
from tests.simulation import campaign, world
from tests.simulation.scenario import Settings


def random_action(rng: Random) -> Action:
    """Few keys and few leases, so that clients meet."""
    key, lease = b"key %d" % rng.randrange(4), rng.randrange(1, 4)
    put = Put(key, rng.randbytes(3), rng.choice((0, lease)))
    free = Compare(key, Target.VERSION, Relation.EQUAL, 0)
    branch = (Range(b"key", b"\0"), Delete(b"key 2", b"\0")) if key < b"key 2" else (Range(key),)
    return rng.choice(
        (
            put,
            put,
            Delete(b"key 1", b"key 3"),
            Txn((free,), (put,), branch),
            Grant(lease, rng.randrange(300, 2_000)),
            Grant(lease, rng.randrange(300, 2_000)),
            KeepAlive(lease),
            Revoke(lease),
        )
    )


class Locksmith(world.Client):
    """A client of the simulation that uses all of the store."""

    def _next(self) -> None:
        rng = self._world.rng
        self._sequence += 1
        self._raw = encode_command(Command(self._id, self._sequence, random_action(rng)))
        self._world.after(rng.uniform(0.0, 200.0), self._submit, self._raw)


@pytest.mark.parametrize("byzantine", [0, 1])
def test_leases_and_transactions_are_the_same_everywhere_whatever_happens(
    byzantine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    apply = Machine.apply

    def counted(machine: Machine, block: Block, *rest: object) -> Applied:
        applied = apply(machine, block, *rest)  # type: ignore[arg-type]
        seen["expired"] += sum(lease is None for lease in applied.changes.leases.values())
        seen.update(result.refusal.name for _, result in applied.results)
        return applied

    monkeypatch.setattr(Machine, "apply", counted)
    monkeypatch.setattr(world, "Client", Locksmith)
    monkeypatch.setattr(limits, "LEASE_TTL_MS_MIN", 300)
    monkeypatch.setattr(limits, "EXPIRIES_MAX", 1)
    monkeypatch.setattr(limits, "SESSIONS_MAX", 3)
    report = campaign.run(range(700, 715), Settings(byzantine=byzantine))
    assert not report.failures, [f"{o.seed}: {o.failure}" for o in report.failures]
    assert seen["expired"] > 50 and seen["NO_LEASE"] > 20 and seen["LEASE_EXISTS"] > 5
