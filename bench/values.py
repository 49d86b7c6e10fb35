"""What is written: the same keys and values on both sides.

Random bytes, so that nothing on the way can compress them; few keys, so that neither side's state
grows with its speed.
"""

from __future__ import annotations

import base64
import random

VALUE_BYTES = 256
KEYS_PER_WRITER = 16

_random = random.Random(256)
VALUES = tuple(_random.randbytes(VALUE_BYTES) for _ in range(64))
VALUES_BASE64 = tuple(base64.b64encode(value).decode() for value in VALUES)
