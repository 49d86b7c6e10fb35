"""The protocol: stable-leader Simplex with weights, as a pure function of events.

May enter: the standard library, msgpack, sortedcontainers, Keccak, and the ``Signer``/``Verifier``
interfaces of ``signatures``. May not enter: sockets, clocks, threads, randomness, any other room
of this house.
Names come in pairs: a noun holds values and pure functions, its word in *-ing* is what a member
does with them. A member is one ``Engine``, whose class stands on a chain of classes, one concern
each: ``docs/protocol.md`` has the rules R1-R21 that the code cites, and in section 9 a walk from
function to function through a commit, a failover and a change of epoch. Begin there.
Read in this order; imports point backwards only. Values: ``limits``, ``errors``, ``validators``,
``commands``, ``types``, ``keccak``, ``digests``, ``signatures``, ``standing``, ``order``,
``codec``, ``wire``. What proves something: ``certificates``, ``compact``, ``leadership``,
``evidence``, ``epochs``. Blocks and state: ``ledger``, ``items``, ``outcomes``, ``machine``,
``transfer``, ``mempool``, ``health``. One member: ``interface`` (events and effects),
``proposals``, ``catchup``, ``snapshots``, ``boot``, ``state``, ``convicting``, ``turning``,
``voting`` (the rules), ``proposing``, ``syncing``, ``installing``, ``booting``, ``watching``,
``engine``.
"""
