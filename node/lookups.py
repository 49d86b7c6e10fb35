"""Names to addresses, where a name server that does not answer costs only who asked for that name.

Trio looks a name up in a worker thread, of which there are forty for everything. A lookup that is
given up goes on in its thread until the system's resolver does (half a minute, say), and whoever
asks again takes the next one. Each endpoint of the chain and each member is asked for again and
again, so with a dead resolver no thread would be left for the store, the snapshots, the watermark.
Here lookups have threads of their own, one for each name, which all who ask meanwhile share.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from outcome import Error, Outcome

LOOKUPS_MAX = 128  # names at once: of members (100), endpoints of the chain, sources of collateral

Question = tuple[Any, ...]  # the arguments of ``socket.getaddrinfo``


class _Lookup:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Outcome[Any] | None = None


class NameLookups(trio.abc.HostnameResolver):
    """For ``trio.socket.set_custom_hostname_resolver``.

    ``look_up`` takes and gives what ``socket.getaddrinfo`` does, in a thread.
    """

    def __init__(self, look_up: Callable[..., Any] = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._under_way: dict[Question, _Lookup] = {}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """See ``socket.getaddrinfo``. Raises OSError."""
        question = (host, port, family, type, proto, flags)
        lookup = self._under_way.get(question)
        if lookup is None:
            if len(self._under_way) >= LOOKUPS_MAX:
                raise socket.gaierror(socket.EAI_AGAIN, f"{LOOKUPS_MAX} names are looked up now")
            lookup = self._under_way[question] = _Lookup()
            self._begin(question, lookup)
        await lookup.done.wait()
        if isinstance(lookup.outcome, Error):
            error = lookup.outcome.error
            # One of its own for each, or their tracebacks would grow into each other.
            raise OSError(*error.args) if isinstance(error, OSError) else error
        assert lookup.outcome is not None
        return lookup.outcome.value

    def _begin(self, question: Question, lookup: _Lookup) -> None:
        token = trio.lowlevel.current_trio_token()

        def finish(outcome: Outcome[Any]) -> None:
            del self._under_way[question]
            lookup.outcome = outcome
            lookup.done.set()

        def deliver(outcome: Outcome[Any]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(finish, outcome)

        trio.lowlevel.start_thread_soon(partial(self._look_up, *question), deliver, "lookup")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """Addresses to names: nobody here asks for any."""
        raise socket.gaierror(socket.EAI_FAIL, "no names of addresses are looked up")
