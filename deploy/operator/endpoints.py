"""How ``--rpc`` is read. A URL may hold an API key: named here, it is in no process list."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from chain.errors import ChainConfigError
from deploy.operator.keys import read_file

URL_BYTES_MAX = 2048


def endpoint(text: str) -> str:
    """An RPC URL, or the one that ``env:NAME`` or ``file:PATH`` (mode 600) holds.

    Raises ArgumentTypeError, which quotes nothing of what it read.
    """
    kind, colon, name = text.partition(":")
    if kind == "env" and colon:
        url = os.environ.get(name, "")
        if not url.strip():
            raise argparse.ArgumentTypeError(f"the environment has no variable {name}")
    elif kind == "file" and colon:
        try:
            raw = read_file(Path(name), URL_BYTES_MAX, private=True)
        except ChainConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        url = raw.decode("utf-8", "replace")
    else:
        return text
    url = url.strip()
    if not url.startswith(("http://", "https://")) or len(url.split()) != 1:
        raise argparse.ArgumentTypeError(f"{text} does not hold one http(s) URL")
    return url
