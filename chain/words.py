"""The registry's fixed words: where they lie in its storage, and what they say.

The same facts come in two ways. Proven: storage words against a block's state root, placed as the
compiler's layout in the artifact says. Agreed: results of view functions that k endpoints give
alike. Both ways end in ``RegistryWords``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Change, PendingRecovery
from contracts import Artifact, StorageSlot

_U64 = 8
_WORD = 32
_RECOVERY_WORDS = 3
VIEWS = (
    "version", "digest", "seatCount", "rules", "certificates", "launched", "lastChange",
    "pendingRecovery",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Launch:
    """The state that ``launch()`` fixed, and the sum of the weights then."""

    change: Change
    weight: int


@dataclass(frozen=True, slots=True)
class RegistryWords:
    """What changes with the membership, apart from the rows; None where nothing happened yet."""

    version: int
    digest: bytes
    seat_count: int  # the highest seat ever granted
    rules: bytes  # 20-byte address of the contract that names the policy; zeros while none is named
    certificates: bytes  # of the contract that checks the cluster's certificates; the same
    launch: Launch | None
    last_change: Change | None
    pending_recovery: PendingRecovery | None
    recoveries: int


@dataclass(frozen=True, slots=True)
class OpenedRecovery:
    """One recovery as the contract keeps it; ``change`` is the registry when it was opened."""

    epoch: int
    height: int
    block_hash: bytes
    change: Change


def agreed_words(results: Sequence[Sequence[Any]]) -> RegistryWords:
    """From the results of ``VIEWS``, in that order."""
    (version,), (digest,), (seat_count,), (rules,), (checks,), launched, changed, pending = results
    launch_block, launch_version, launch_digest, weight = launched
    _round, epoch, height, ready_at_s, block_hash, recoveries = pending
    return RegistryWords(
        version=version,
        digest=digest,
        seat_count=seat_count,
        rules=bytes.fromhex(rules[2:]),
        certificates=bytes.fromhex(checks[2:]),
        launch=_launch(launch_block, launch_version, launch_digest, weight),
        last_change=_change(*changed),
        pending_recovery=_pending(epoch, height, block_hash, ready_at_s),
        recoveries=recoveries,
    )


class StorageLayout:
    """Where a compiled registry keeps its words.

    Args:
        compiled: its artifact; ``matches_code`` of that says whether a contract is laid out so.
    """

    def __init__(self, compiled: Artifact) -> None:
        self.matches_code = compiled.matches_code
        self._at: Mapping[str, StorageSlot] = compiled.storage
        launch, pending = (self._at[name].slot for name in ("_launch", "_pending"))
        self.fixed: tuple[int, ...] = (
            self._at["version"].slot,
            self._at["digest"].slot,
            launch,
            launch + 1,
            self._at["_changeDigest"].slot,
            pending,
            pending + 1,
            self._at["_recoveries"].slot,
            self._at["rules"].slot,
            self._at["certificates"].slot,
        )

    def words(self, values: Sequence[int]) -> RegistryWords:
        """From the values of the slots ``fixed``, in that order."""
        head, digest, launch, launch_digest, changed_digest, *rest = values
        pending, pending_hash, recoveries, rules, checks = rest
        version, changed, changed_block, seat_count = (
            self._in_head(head, name)
            for name in ("version", "_changeVersion", "_changeBlock", "_seatCount")
        )
        return RegistryWords(
            version=version,
            digest=_bytes32(digest),
            seat_count=seat_count,
            rules=_part(rules, 0, 20).to_bytes(20, "big"),
            certificates=_part(checks, 0, 20).to_bytes(20, "big"),
            launch=_launch(
                _part(launch, 0, _U64),
                _part(launch, 8, _U64),
                _bytes32(launch_digest),
                _part(launch, 16, 4),
            ),
            # a change that nothing followed yet has the newest digest (Slots.sol, slot 4)
            last_change=_change(
                changed_block, changed, _bytes32(digest if changed == version else changed_digest)
            ),
            pending_recovery=_pending(
                _part(pending, 8, _U64),
                _part(pending, 16, _U64),
                _bytes32(pending_hash),
                _part(pending, 24, _U64),
            ),
            recoveries=recoveries,
        )

    def _in_head(self, head: int, name: str) -> int:
        """A field of the word that the version is in."""
        at = self._at[name]
        return _part(head, at.offset_bytes, at.size_bytes)

    def root_slot(self, epoch: int) -> int:
        """Where the KMS root of an epoch lies."""
        return self._in_mapping("_roots", epoch)

    @staticmethod
    def root_ends_s(word: int) -> int:
        """The Unix second at which a root ends, from its word."""
        return _part(word, 20, 5)

    @property
    def app_count_slot(self) -> int:
        """Where the number of apps ever named lies."""
        return self._at["_appCount"].slot

    def app_count(self, word: int) -> int:
        """How many apps were ever named: at most 255."""
        return _part(word, self._at["_appCount"].offset_bytes, 1)

    def app_slot(self, index: int) -> int:
        """Where the app of a number (from 1) lies."""
        return self._in_mapping("_apps", index)

    @staticmethod
    def app_is_allowed(word: int) -> bool:
        """Whether nodes of an app may be members, from its word."""
        return bool(_part(word, 20, 1))

    def node_slot(self, seat: int) -> int:
        """Where the first word of a seat's row lies."""
        return self._in_mapping("_nodes", seat)

    @staticmethod
    def node_app(word: int) -> int:
        """The number of the app that a seat's node runs, from the first word of the row."""
        return _part(word, 30, 1)

    def _in_mapping(self, name: str, key: int) -> int:
        place = key.to_bytes(_WORD, "big") + self._at[name].slot.to_bytes(_WORD, "big")
        return int.from_bytes(keccak256(place), "big")

    def recovery_slots(self, index: int) -> tuple[int, ...]:
        """Where an opened recovery lies."""
        base = keccak256(self._at["_recoveries"].slot.to_bytes(_WORD, "big"))
        first = int.from_bytes(base, "big") + _RECOVERY_WORDS * index
        return tuple((first + i) % 2**256 for i in range(_RECOVERY_WORDS))

    @staticmethod
    def recovery(values: Sequence[int]) -> OpenedRecovery:
        """From the values of its slots."""
        head, block_hash, digest = values
        epoch, height, block_number, version = (_part(head, 8 * i, _U64) for i in range(4))
        return OpenedRecovery(
            epoch, height, _bytes32(block_hash), Change(block_number, version, _bytes32(digest))
        )


def _launch(block_number: int, version: int, digest: bytes, weight: int) -> Launch | None:
    return Launch(Change(block_number, version, digest), weight) if block_number else None


def _change(block_number: int, version: int, digest: bytes) -> Change | None:
    return Change(block_number, version, digest) if version else None


def _pending(epoch: int, height: int, block_hash: bytes, ready_at_s: int) -> PendingRecovery | None:
    return PendingRecovery(epoch, height, block_hash, ready_at_s) if ready_at_s else None


def _part(word: int, offset_bytes: int, size_bytes: int) -> int:
    """A field of a word; Solidity packs from the low end."""
    return word >> 8 * offset_bytes & (1 << 8 * size_bytes) - 1


def _bytes32(word: int) -> bytes:
    return word.to_bytes(_WORD, "big")


def checked(words: RegistryWords, block_number: int) -> RegistryWords:
    """The words, unless they tell of a future.

    Raises:
        BadChainData: a change or launch lies after the block or the version that they are read at.
    """
    launch = words.launch.change if words.launch is not None else None
    for what, change in (("last change", words.last_change), ("launch", launch)):
        if change is not None and (
            change.block_number > block_number or change.version > words.version
        ):
            raise BadChainData(f"the {what}, version {change.version}, lies in the future")
    return words
