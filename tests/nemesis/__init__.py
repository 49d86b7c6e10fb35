"""A nemesis for real daemons: faults by seed under concurrent clients, then a verdict.

``python -m tests.nemesis`` is for as many seeds as there is time for; ``test_nemesis.py`` of the
integration tests is a short run. The simulator tries the engine; here it is the daemon around it:
files, links, queues, the API, watches, leases, sessions, starts and ends. Read ``run.py`` first,
then ``actions.py`` (what is done to the daemons), ``clients.py``, ``watchers.py`` and ``rude.py``
(what is asked meanwhile), ``verdict.py`` (what must hold). Below them are ``relays.py`` (links that
can be cut, muted and slowed down), ``faulty_daemon.py`` (a disk that fails on demand) and
``disks.py`` (a file system that loses what was not synced; for root only).
"""
