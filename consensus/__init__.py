"""The protocol: stable-leader Simplex with weights, as a pure function of events.

May enter: the standard library, msgpack, sortedcontainers, Keccak, and the ``Signer``/``Verifier``
interfaces of ``signatures``. May not enter: sockets, clocks, threads, randomness, any other room
of this house.
Read in this order: ``limits``, ``validators``, ``types``, ``keccak``, ``digests``, ``standing``,
``order``, ``signatures``, ``commands``, ``codec``, ``wire``, ``certificates``, ``leadership``,
``evidence``, ``ledger``, ``items``, ``machine``, ``transfer``, ``mempool``, ``health``,
``interface`` (events and effects), ``proposals``, ``catchup``, ``boot``, ``state``, ``convicting``,
``voting`` (the rules), ``syncing``, ``booting``, ``watching``, ``engine``. The numbered rules that
the code cites are in ``docs/protocol.md``.
"""
