"""The protocol: stable-leader Simplex with weights, as a pure function of events.

May enter: the standard library, msgpack, sortedcontainers, Keccak, and the ``Signer``/``Verifier``
interfaces of ``signatures``. May not enter: sockets, clocks, threads, randomness, any other room
of this house.
Read in this order; imports point backwards only. Values: ``limits``, ``errors``, ``validators``,
``commands``, ``types``, ``keccak``, ``digests``, ``signatures``, ``standing``, ``order``,
``codec``, ``wire``. What proves something: ``certificates``, ``compact``, ``leadership``,
``evidence``, ``epochs``. Blocks and state: ``ledger``, ``items``, ``machine``, ``transfer``,
``mempool``, ``health``. One member: ``interface`` (events and effects), ``proposals``,
``catchup``, ``snapshots``, ``boot``, ``state``, ``convicting``, ``turning``, ``voting`` (the
rules), ``syncing``, ``restoring``, ``booting``, ``watching``, ``engine``. The numbered rules that
the code cites are in ``docs/protocol.md``.
"""
