"""What libraries load for uses that are not ours, and a node is spared.

Of all that importing the daemon would load, more than a third is of no use to it: py-libp2p's host
with QUIC, WebSockets, mDNS and relays, coloured tracebacks, the command line of an HTTP client. It
is half a second of processor time at each start, a quarter of the memory, and code that a node
which guards keys has better not at hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Within, importing one of these fails as if it were not installed; of one that is loaded
    already nothing changes. For libraries that do without it by themselves."""
    missing = [name for name in modules if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment] # documented: then its import fails
    try:
        yield
    finally:
        for name in missing:
            sys.modules.pop(name, None)


@contextmanager
def bare(*packages: str, stand_ins: tuple[ModuleType, ...] = ()) -> Iterator[None]:
    """Within, modules of these packages are imported without the code of the packages themselves.

    Afterwards the packages are as if nobody had imported them: whoever does gets them whole, and
    the very modules that are loaded, but by ``from package import module`` only. Nothing happens
    when the first of them is loaded already.

    Args:
        packages: from the outermost to the innermost.
        stand_ins: modules to be taken instead of those of the same names.
    """
    if packages[0] in sys.modules:
        yield
        return
    put: list[str] = []
    try:
        for name in packages:
            spec = find_spec(name)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No package named {name!r}", name=name)
            package = ModuleType(name)
            package.__spec__, package.__package__ = spec, name
            package.__path__ = list(spec.submodule_search_locations)
            sys.modules[name] = package
            put.append(name)
        for module in stand_ins:
            sys.modules[module.__name__] = module
            put.append(module.__name__)
        yield
    finally:
        for name in put:
            sys.modules.pop(name, None)
