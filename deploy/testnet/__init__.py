"""A whole cluster on one machine: chain, registry, guest agents and daemons, each a real process.

Nothing here runs in production; what it starts is what production runs, plus anvil and the guest
agent simulator. Reading order: layout (files and ports), processes, chain, agents, nodes, then
launch (the order of starting and stopping), faults and
policies (of the simulated machines), survey and table
(what is shown), cli (the verbs).
"""

from .layout import TestnetError

__all__ = ["TestnetError"]
