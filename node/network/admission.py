"""Who may start a handshake, and the record of everybody who was refused."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from node.network.buckets import TokenBucket
from node.network.errors import Refused
from node.network.limits import NetworkLimits

ADDRESSES_REMEMBERED_MAX = 4096
LOG_LINES_PER_S = 5.0
LOG_LINES_BURST = 50.0


class Admission:
    """Half-open slots in total and per address, a rate of handshakes per address.

    Addresses that members announced have their own pool of slots, so that strangers who sit on
    theirs do not keep a member out. Must be made inside a trio run.
    """

    def __init__(self, limits: NetworkLimits, log: Any, refused: Counter[str]) -> None:
        self._limits = limits
        self._log = log
        self._per_ip: Counter[str] = Counter()
        self._pools: Counter[bool] = Counter()
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()
        self._log_bucket = TokenBucket(LOG_LINES_PER_S, LOG_LINES_BURST)
        self._log_suppressed = 0
        self.member_hosts: frozenset[str] = frozenset()
        self.refused = refused

    @property
    def half_open(self) -> int:
        """Handshakes running now."""
        return self._pools.total()

    @contextmanager
    def slot(self, ip: str) -> Iterator[None]:
        """Hold a half-open slot for the time of a handshake.

        Raises:
            Refused: no slot is free, or the address is too fast.
        """
        limits = self._limits
        pool = ip in self.member_hosts
        if self._per_ip[ip] >= limits.half_open_per_ip_max:
            raise Refused("too_many_half_open_per_ip")
        if self._pools[pool] >= limits.half_open_max:
            raise Refused("too_many_half_open")
        if not self._rate(ip).try_take():
            raise Refused("too_many_handshakes_per_ip")
        self._per_ip[ip] += 1
        self._pools[pool] += 1
        try:
            yield
        finally:
            self._pools[pool] -= 1
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]

    def _rate(self, ip: str) -> TokenBucket:
        bucket = self._rates.get(ip)
        if bucket is None:
            bucket = self._rates[ip] = TokenBucket(
                self._limits.handshakes_per_s_per_ip, self._limits.handshake_burst_per_ip
            )
            if len(self._rates) > ADDRESSES_REMEMBERED_MAX:
                self._rates.popitem(last=False)
        else:
            self._rates.move_to_end(ip)
        return bucket

    def record(self, refusal: Refused, *, address: str, dialled: bool) -> None:
        """Count a refusal and log it; of a flood a part is logged, with the number left out."""
        self.refused[refusal.reason] += 1
        if not self._log_bucket.try_take():
            self._log_suppressed += 1
            return
        suppressed, self._log_suppressed = self._log_suppressed, 0
        self._log.warning(
            "peer_refused",
            reason=refusal.reason,
            peer_id=refusal.peer_id,
            address=address,
            dialled=dialled,
            detail=refusal.detail,
            suppressed=suppressed,
        )
