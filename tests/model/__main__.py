"""``python -m tests.model``: writes the stored traces anew, after a change of the model.

Of many traces those are kept that notice a broken core first, and a few more of each kind.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.model.ballots import Mismatch
from tests.model.replay import Replay
from tests.model.test_replay import BROKEN
from tests.model.traces import SEARCHES, STORED, generate

TRIED, KEPT = 16, 4  # of each kind
SEED = 1


def notices(trace: Any, engine: Any) -> bool:
    """True when a broken core leaves the trace."""
    try:
        Replay(trace, engine).run()
    except Mismatch:
        return True
    return False


kept: list[Any] = []
candidates: list[Any] = []
for init in SEARCHES:
    traces = generate(init, SEED, TRIED)
    for trace in traces:
        Replay(trace).run()
    kept += traces[:KEPT]
    candidates += traces[KEPT:]
for engine in BROKEN:
    if not any(notices(trace, engine) for trace in kept):
        kept += [next(trace for trace in candidates if notices(trace, engine))]
lines = [json.dumps(trace, separators=(",", ":"), sort_keys=True) for trace in kept]
# No time and no name in the file: the same traces are the same bytes.
STORED.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
print(f"{len(lines)} traces, {STORED.stat().st_size} bytes")
