"""A whole cluster in one thread: the real engine under simulated time, network, disks and liars.

May enter: ``consensus`` and the standard library; no clock, no thread, no randomness but the
seed's. Read in this order: ``signing``, ``store``, ``scenario`` (what a seed means), ``world``
(the heap), ``members``, ``adversaries``, ``impostors``, ``losses`` (of a quorum, and what the
owners of its seats do), ``oracle`` and ``histories`` (what must hold, in other words than the
engine's), ``duties`` (what must be done), ``campaign`` (many seeds), ``planted`` (bugs that must be
found). The second, smaller world: ``twins`` (the space of schedules), ``rounds`` (one
scenario), ``sweep`` (millions of them; ``rewind`` makes the next one start where the first did,
``compiled`` doubles the speed). ``shrink`` makes a failing one small. Run ``python -m
tests.simulation --help``.
"""
