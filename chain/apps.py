"""Which nodes run an app that the registry's owner does not allow any more.

A row of the registry does not tell it: the contract keeps a one-byte number of the app with each
node, and asks only when somebody sweeps. So the words are read here. Hardly ever is an app not
allowed; then the list of apps is all that is looked at, and the nodes' words are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.agreement import PROVEN_SLOTS_MAX
from chain.headers import Header
from chain.membership import Member, MemberStatus
from chain.storage import ContractStorage
from chain.words import StorageLayout


class AppReader:
    """Reads the registry's apps, proven where that can be done, else as k endpoints say alike.

    Args:
        storage, layout: of the registry.
    """

    def __init__(self, storage: ContractStorage, layout: StorageLayout) -> None:
        self._storage = storage
        self._layout = layout
        self._count = 0  # apps ever named, as far as we know: asked for with the count itself

    async def disallowed(self, members: Sequence[Member], at: Header) -> tuple[int, ...]:
        """The seats among the active ones of these whose app is not allowed at a block, sorted.

        Raises ``ChainError``.
        """
        layout, known = self._layout, self._count
        active = [m.seat for m in members if m.status is MemberStatus.ACTIVE]
        # Where another release's contract keeps its apps is not known: there a sweep ends them.
        if not active or not await self._storage.is_laid_out(at):
            return ()
        wanted = [layout.app_count_slot, *map(layout.app_slot, range(1, known + 1))]
        count_word, *apps = await self._words(wanted, at)
        self._count = layout.app_count(count_word)
        apps += await self._words(
            [layout.app_slot(index) for index in range(known + 1, self._count + 1)], at
        )
        denied = {i for i, word in enumerate(apps, 1) if not layout.app_is_allowed(word)}
        if not denied:
            return ()
        nodes = await self._words([layout.node_slot(seat) for seat in active], at)
        return tuple(
            sorted(s for s, w in zip(active, nodes, strict=True) if layout.node_app(w) in denied)
        )

    async def _words(self, slots: Sequence[int], at: Header) -> list[int]:
        found: list[int] = []
        for start in range(0, len(slots), PROVEN_SLOTS_MAX):
            some = slots[start : start + PROVEN_SLOTS_MAX]
            proven = await self._storage.words(some, at)
            found += await self._storage.agreed(some, at) if proven is None else proven[1]
        return found
