"""Collateral at hand: in memory, on disk, in an offline bundle, and last from the sources.

Keys are the platform family (FMSPC) and its CA. What is kept may be used as long as it is valid
and as young as asked; ``renew`` fetches it anew long before that, so that a source that is down for
days is not felt, and no handshake waits for one. Nothing kept needs trust: signatures are checked
with each quote.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .bounded_json import parse_json
from .collateral import COLLATERAL_BYTES_MAX, Collateral, parse_collateral
from .durable import load_file, replace_file
from .errors import CollateralError, CollateralUnavailable
from .pccs import CollateralSource
from .qvl import Platform

RENEW_AFTER_S = 24 * 3600
RETRY_AFTER_S = 60
FAMILIES_MAX = 64
BUNDLE_BYTES_MAX = 4 * 1024 * 1024
BUNDLE_VERSION = 1
_CAS = ("platform", "processor")


class CollateralStore:
    """Collateral for the families of the machines that are met.

    Args:
        sources: asked in order until one answers; none works offline.
        folder: where files are kept; None keeps nothing over a restart. It must exist.
        bundle: collateral to begin with (``load_bundle``).
        renew_after_s: how long after fetching ``renew`` asks the sources again.
        on_failure: hears of each source's failure, in words, also where old collateral still does.
    """

    def __init__(
        self,
        sources: Sequence[CollateralSource],
        *,
        folder: Path | None = None,
        bundle: Iterable[tuple[Platform, Collateral]] = (),
        renew_after_s: int = RENEW_AFTER_S,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._folder = folder
        self._renew_after_s = renew_after_s
        self._on_failure = on_failure or (lambda _: None)
        # A quote names its family before anything of it is proven, so a liar can name many: what
        # was used last stays, and nothing here grows beyond its bound.
        self._kept: OrderedDict[Platform, Collateral] = OrderedDict(bundle)
        self._renewed_s: dict[Platform, int] = {}
        self._failed: OrderedDict[Platform, tuple[int, str]] = OrderedDict()
        self._locks: dict[Platform, trio.Lock] = {}
        self._writing = trio.Lock()  # two writers of one file would mix their bytes

    def peek(self, platform: Platform) -> Collateral | None:
        """What is in memory, without looking further."""
        return self._kept.get(platform)

    async def get(self, platform: Platform, *, now_s: int, age_s_max: int) -> Collateral:
        """Collateral valid at ``now_s`` and issued at most ``age_s_max`` before.

        Sources are asked only when nothing such is kept.

        Raises:
            CollateralUnavailable: nothing such is kept, and no source gave any.
        """
        kept = self._used(platform)
        if kept is not None and kept.serves(now_s, age_s_max):
            return kept
        async with self._alone(platform):
            if platform not in self._kept and self._folder is not None:
                await self._read(self._folder, platform)
            kept = self._used(platform)
            reason = "no source" if kept is None else "kept collateral is too old"
            if kept is None or not kept.serves(now_s, age_s_max):
                reason = await self._ask(platform, now_s) or reason
                kept = self._used(platform)
            if kept is not None and kept.serves(now_s, age_s_max):
                return kept
            raise CollateralUnavailable(f"family {platform.fmspc.hex()}: {reason}")

    async def renew(self, now_s: int) -> None:
        """Ask the sources again for what was fetched long ago; call it every few minutes.

        Failures go to ``on_failure``; what is kept stays.
        """
        for platform in tuple(self._kept):
            last_s = self._renewed_s.get(platform)
            if last_s is not None and last_s <= now_s < last_s + self._renew_after_s:
                continue
            async with self._alone(platform):
                await self._ask(platform, now_s)

    async def remember(self, platform: Platform, collateral: Collateral) -> None:
        """Keep collateral that a verdict accepted, if it is newer than what is kept."""
        kept = self._kept.get(platform)
        if kept is not None and collateral.issued_s <= kept.issued_s:
            return
        self._keep(platform, collateral)
        if self._folder is not None:
            await self._write(self._path(self._folder, platform), collateral)

    def _used(self, platform: Platform) -> Collateral | None:
        kept = self._kept.get(platform)
        if kept is not None:
            self._kept.move_to_end(platform)
        return kept

    def _keep(self, platform: Platform, collateral: Collateral) -> None:
        self._kept[platform] = collateral
        self._kept.move_to_end(platform)
        if len(self._kept) > FAMILIES_MAX:
            gone, _ = self._kept.popitem(last=False)
            self._renewed_s.pop(gone, None)

    @asynccontextmanager
    async def _alone(self, platform: Platform) -> AsyncIterator[None]:
        """One at a time for each family: many handshakes begin together after a restart."""
        lock = self._locks.setdefault(platform, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(platform, None)

    async def _ask(self, platform: Platform, now_s: int) -> str:
        """Asks the sources unless they failed a moment ago; returns how, empty if one answered."""
        failed_s, reason = self._failed.get(platform, (None, ""))
        if failed_s is not None and failed_s <= now_s < failed_s + RETRY_AFTER_S:
            return reason  # not with every peer that knocks
        failures = []
        for source in self._sources:
            try:
                await self.remember(platform, await source.fetch(platform))
            except CollateralUnavailable as error:
                failures.append(str(error))
                self._on_failure(str(error))
                continue
            self._failed.pop(platform, None)
            self._renewed_s[platform] = now_s
            return ""
        if failures:
            self._failed[platform] = (now_s, "; ".join(failures))
            if len(self._failed) > FAMILIES_MAX:
                self._failed.popitem(last=False)
        return "; ".join(failures)

    async def _write(self, path: Path, collateral: Collateral) -> None:
        try:
            async with self._writing:
                await trio.to_thread.run_sync(replace_file, path, collateral.to_json())
        except OSError as error:
            self._on_failure(f"{path.name}: {error.strerror}")

    async def _read(self, folder: Path, platform: Platform) -> None:
        path = self._path(folder, platform)
        try:
            raw = await trio.to_thread.run_sync(load_file, path, COLLATERAL_BYTES_MAX)
            found = None if raw is None else parse_collateral(raw)
        except (OSError, ValueError, CollateralError) as error:
            self._on_failure(f"{path.name}: {error}")
            return
        if found is not None and found.fmspc == platform.fmspc:
            self._keep(platform, found)

    @staticmethod
    def _path(folder: Path, platform: Platform) -> Path:
        return folder / f"collateral-{platform.fmspc.hex()}-{platform.ca}.json"


def encode_bundle(entries: Iterable[tuple[Platform, Collateral]]) -> bytes:
    """An offline bundle: collateral of several families in one JSON text."""
    return json.dumps(
        {
            "version": BUNDLE_VERSION,
            "collateral": [
                {
                    "fmspc": platform.fmspc.hex(),
                    "ca": platform.ca,
                    "value": json.loads(collateral.to_json()),
                }
                for platform, collateral in entries
            ],
        },
        indent=1,
    ).encode()


def parse_bundle(raw: bytes) -> list[tuple[Platform, Collateral]]:
    """The entries of an offline bundle of at most 4 MiB. Raises CollateralError."""
    if len(raw) > BUNDLE_BYTES_MAX:
        raise CollateralError(f"a bundle has at most {BUNDLE_BYTES_MAX} bytes")
    try:
        value = parse_json(raw)
    except ValueError:
        raise CollateralError("a bundle is a JSON object") from None
    if not isinstance(value, dict) or value.get("version") != BUNDLE_VERSION:
        raise CollateralError(f"a bundle of version {BUNDLE_VERSION} is expected")
    items = value.get("collateral")
    if not isinstance(items, list) or len(items) > FAMILIES_MAX:
        raise CollateralError(f"a bundle has at most {FAMILIES_MAX} entries")
    entries = []
    for item in items:
        if not isinstance(item, dict) or item.get("ca") not in _CAS:
            raise CollateralError("an entry names its ca: platform or processor")
        collateral = parse_collateral(json.dumps(item.get("value")).encode())
        if item.get("fmspc") != collateral.fmspc.hex():
            raise CollateralError("an entry's fmspc is not that of its collateral")
        entries.append((Platform(collateral.fmspc, item["ca"]), collateral))
    return entries
