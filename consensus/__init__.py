"""The protocol: stable-leader Simplex with weights, as a pure function of events.

May enter: the standard library, msgpack, sortedcontainers, Keccak, and the ``Signer``/``Verifier``
interfaces of ``signatures``. May not enter: sockets, clocks, threads, randomness, any other room
of this house.

Begin with ``docs/protocol.md``: section 1 has the words, section 2 the rules R1-R21 that the code
cites, section 9 a walk from function to function through a commit, a failover and a change of
epoch. A member is one ``Engine``, whose class stands on a chain of classes, one concern each.
Names come in pairs: a noun holds values and pure functions, and a class of the chain says what a
member does with them: ``evidence`` and ``convicting``, ``epochs`` and ``turning``,
``certificates`` and ``voting``, ``proposals`` and ``proposing``, ``catchup`` and ``syncing``,
``snapshots`` and ``installing``, ``boot`` and ``booting``, ``health`` and ``watching``.

Read in this order; imports point backwards only. Values: ``limits``, ``errors``, ``validators``,
``commands``, ``types``, ``keccak``, ``digests``, ``signatures``, ``standing``, ``order``,
``codec``, ``wire``. What proves something: ``certificates``, ``compact``, ``leadership``,
``evidence``, ``epochs``. Blocks and state: ``ledger``, ``items``, ``outcomes``, ``machine``,
``transfer``. What a member keeps its books with: ``mempool``, ``health``, ``buckets``, and, after
``interface`` (events and effects), ``proposals``, ``catchup``, ``snapshots``, ``boot``. The chain
of classes: ``state``, ``convicting``, ``turning``, ``voting`` (the rules), ``proposing``,
``syncing``, ``installing``, ``booting``, ``watching``, ``engine``.
"""
