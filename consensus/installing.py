"""R17 in one member: finding a certified snapshot, and putting it in the place of the state.

Not to be taken for the start from one's own disk, which is ``Engine._restore``.
"""

from __future__ import annotations

from .catchup import RETRIES_MAX
from .certificates import verify_certificate
from .digests import block_hash
from .epochs import era_of, opened_set
from .errors import WireError
from .interface import InstallRecord
from .ledger import opened_tip, tip_at
from .machine import Machine
from .snapshots import Fetch, Offer, certified_state
from .syncing import Syncing
from .types import FinalHeader, Manifest, Recovery
from .wire import EpochReply, EpochRequest, SnapshotChunk, SnapshotRequest


class Installing(Syncing):
    """Snapshots, for a member that is too far behind, or lacks what all others pruned."""

    def _is_far_behind(self, height: int) -> bool:
        return height - self.ledger.tip.height > self.checkpoints.gap

    def _renew_turns(self) -> None:
        """Before each retry: who gave us a snapshot may give another when nobody else is left.

        It pruned more while we took the first one over; the others gave one as well, had nothing
        for us since the last retry, or are spared because they did not answer.
        """
        others = self.connected - self._gave_snapshot
        if self.catchup.target is None or not self.catchup.may_help(others):
            self._gave_snapshot.clear()

    def _retry_snapshot(self) -> None:
        """At each retry another member is asked for its newest snapshot, or for the chunk again."""
        if self._offer is not None:
            self._retry_offer(self._offer)
        elif self.fetch is None:
            # R21: of a recovery's block no member may be left to show a finalization.
            untold = self._lacks_recovered and self.catchup.is_idle
            if untold or self._is_far_behind(self.catchup.best_height):
                self._ask_for_snapshot()
        else:
            self._retry_fetch(self.fetch)

    def _retry_offer(self, offer: Offer) -> None:
        """The proofs of many epochs take many messages, of which we are sent one at each retry."""
        if offer.is_slow(RETRIES_MAX) or offer.sender not in self.connected:
            self._offer = None
            self.catchup.bar(offer.sender)
        else:
            self._send(offer.sender, EpochRequest(offer.validators.epoch))

    def _retry_fetch(self, fetch: Fetch) -> None:
        if fetch.is_slow(RETRIES_MAX) or fetch.sender not in self.connected:
            self._give_up()
        elif fetch.retries > 1:
            self._send(fetch.sender, fetch.request())

    def _take_head(self, head: FinalHeader) -> None:
        before = self.catchup.best_height
        super()._take_head(head)
        after = self.catchup.best_height
        if self._is_far_behind(after) and not self._is_far_behind(before):
            self._ask_for_snapshot()

    def _ask_for_snapshot(self) -> None:
        seat = self.catchup.pick(self.connected)
        if seat is not None:
            self._offer_asked_of = seat
            self._send(seat, SnapshotRequest(0, 0))

    def _give_up(self) -> None:
        """The member that gave us a snapshot does not go on, or lied: another one."""
        assert self.fetch is not None
        self.catchup.bar(self.fetch.sender)
        self.fetch = None
        self.catchup.paused = False
        self._out.send += self.catchup.ask(self.connected)

    # --- offers ---

    def _on_recoveries(self, recoveries: tuple[Recovery, ...]) -> None:
        """R21: a snapshot on its way does not lead around what our chain shows now."""
        super()._on_recoveries(recoveries)
        if self._offer is not None and self._leads_around(self._offer):
            self._offer = None
        if self.fetch is not None and self._leads_around(self.fetch.offer):
            self._give_up()

    def _leads_around(self, offer: Offer) -> bool:
        """True for one that leads past the block of a recovery, or over one that was replaced."""
        era = era_of(self.validators.epoch)
        over = (o for o in offer.openings if isinstance(o, Recovery) and era_of(o.epoch) > era)
        replaced = any(recovery not in self._awaited for recovery in over)
        return replaced or any(map(offer.leads_around, self._awaited))

    def _on_snapshot_offer(self, sender: int, manifest: Manifest) -> None:
        """Taken when it was asked for, or comes in place of the next blocks, which are pruned."""
        height = manifest.header.height
        # Once from each: one with the whole past could lead us on from height to height for ever.
        pruned = self.catchup.is_stuck_at(sender) and sender not in self._gave_snapshot
        wanted = self._is_far_behind(height) or self._lacks_recovered
        asked = sender == self._offer_asked_of and wanted
        if sender == self._offer_asked_of:
            self._offer_asked_of = None
        self.catchup.has_nothing(sender)
        free = self.fetch is None and self._offer is None
        offer = Offer(sender, manifest, self.validators)
        # Whoever has not seen a recovery yet may go on in the history that it ended.
        ahead = offer.is_ahead(self.ledger.tip.height) and not self._leads_around(offer)
        if free and ahead and (pruned or asked):
            if offer.lacks_epochs:
                self._offer = offer
                self._send(sender, EpochRequest(self.validators.epoch))
            else:
                self._take_offer(offer)
        self._out.send += self.catchup.ask(self.connected)

    def _on_epoch_reply(self, sender: int, reply: EpochReply) -> None:
        """The epochs between ours and that of an offered snapshot; or as before."""
        offer = self._offer
        if offer is None or offer.sender != sender:
            super()._on_epoch_reply(sender, reply)
        elif not offer.learn(reply.openings, self._awaited, self.cluster_id, self._verifier):
            self._offer = None
            super()._on_epoch_reply(sender, reply)
        elif not offer.lacks_epochs:
            self._offer = None
            self._take_offer(offer)

    def _take_offer(self, offer: Offer) -> None:
        manifest, final = offer.manifest, offer.manifest.finalization
        state_hash = certified_state(manifest, self.cluster_id)
        if (
            state_hash is None
            or not verify_certificate(final, offer.validators, self.cluster_id, self._verifier)
            or offer.epoch_at(block_hash(self.cluster_id, manifest.header)) is None
        ):
            what = f"a snapshot at {manifest.header.height} that nothing certifies"
            self._accuse(offer.sender, what)
            self.catchup.bar(offer.sender, most=True)
            return
        self._gave_snapshot.add(offer.sender)
        self.fetch = Fetch(offer, state_hash)
        self.catchup.paused = True
        self._send(offer.sender, self.fetch.request())

    # --- chunks ---

    def _on_snapshot_chunk(self, sender: int, chunk: SnapshotChunk) -> None:
        """The next chunk that we asked for; after the last one the state is installed."""
        fetch = self.fetch
        if fetch is None or not fetch.expects(sender, chunk):
            return
        try:
            machine = fetch.take(chunk)
        except WireError as error:
            self._accuse(sender, f"a snapshot at {fetch.height} that is none: {error}")
            self.catchup.bar(sender, most=True)
            self._give_up()
            return
        if machine is None:
            self._send(sender, fetch.request())
            return
        self.fetch = None
        if fetch.height > self.ledger.tip.height:  # blocks may have brought us further meanwhile
            self._install(fetch.offer, machine)
        self.catchup.installed(self.ledger.tip.height)
        self._take_certificate(fetch.manifest.finalization, checked=True)
        self._out.send += self.catchup.ask(self.connected)

    def _install(self, offer: Offer, machine: Machine) -> None:
        """Puts a checked state in the place of ours, and opens the epochs up to it."""
        header = offer.manifest.header
        hash_ = block_hash(self.cluster_id, header)
        epoch = offer.epoch_at(hash_)
        assert epoch is not None  # asked when the offer was taken
        openings = tuple(
            o for o in offer.openings if self.validators.epoch < opened_set(o).epoch <= epoch
        )
        begun = epoch != header.epoch
        tip = opened_tip(header, hash_) if begun else tip_at(header, hash_, None)
        self._out.persist.append(InstallRecord(tip, offer.manifest, machine, openings))
        self._out.installed = True
        self.machine = machine
        for opening in openings:
            self._open_epoch(opening, opened_tip(header, hash_))
        if not begun:
            self._advance(tip)
        for command_id in filter(machine.done, self.mempool.ids()):
            self._forget_command(command_id)
