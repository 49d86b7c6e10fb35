"""Who may start a handshake, and the record of everybody who was refused."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
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
        self._strangers_rate = TokenBucket(
            limits.handshakes_per_s_strangers, limits.handshake_burst_strangers
        )
        self._member_hosts: Counter[str] = Counter()
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
        known = self._member_hosts[ip]  # members announced at this address
        pool = known > 0
        ip = ip if pool else _block(ip)
        if self._per_ip[ip] >= limits.half_open_per_ip_max * max(1, known):
            raise Refused("too_many_half_open_per_ip")
        if self._pools[pool] >= limits.half_open_max:
            raise Refused("too_many_half_open")
        if not self._rate(ip, max(1, known)).try_take():
            raise Refused("too_many_handshakes_per_ip")
        # Each handshake costs a millisecond or two of this one thread.
        if not pool and not self._strangers_rate.try_take():
            raise Refused("too_many_handshakes")
        self._per_ip[ip] += 1
        self._pools[pool] += 1
        try:
            yield
        finally:
            self._pools[pool] -= 1
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]

    def set_member_hosts(self, hosts: Counter[str]) -> None:
        """Tell how many members announced each literal address."""
        if hosts != self._member_hosts:
            self._member_hosts = hosts
            self._rates.clear()

    def _rate(self, ip: str, members: int) -> TokenBucket:
        bucket = self._rates.get(ip)
        if bucket is None:
            bucket = self._rates[ip] = TokenBucket(
                self._limits.handshakes_per_s_per_ip * members,
                self._limits.handshake_burst_per_ip * members,
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
        # Crossed dials are everyday life, not somebody at the door.
        crossed = refusal.reason in ("duplicate", "closed_by_peer")
        write = self._log.debug if crossed else self._log.warning
        write(
            "peer_refused",
            reason=refusal.reason,
            peer_id=refusal.peer_id,
            address=address,
            dialled=dialled,
            detail=refusal.detail,
            suppressed=suppressed,
        )


def _block(ip: str) -> str:
    # Whoever has one IPv6 address has the 2**64 around it.
    return str(IPv6Network((ip.partition("%")[0], 64), strict=False)) if ":" in ip else ip
