"""Logging: structlog to stderr, as JSON lines or for people, with secrets cut out.

Three rules hold for every line whoever writes it: nothing that looks like a secret leaves under a
name that says so, no text from outside can forge a second line, and no line grows without bound.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import structlog

from node.log_stream import LogStream

REDACTED = "<redacted>"
TEXT_LENGTH_MAX = 4096
ITEMS_MAX = 64
DEPTH_MAX = 6

# Under these names nothing is ever printed ...
_NEVER = re.compile(r"secret|private|priv_?key|password|passwd|mnemonic|authorization|bearer", re.I)
_NEVER_WORD = re.compile(r"(^|_)tokens?$", re.I)
_PUBLIC = frozenset({"fencing_token"})
# ... and under these nothing that has the shape of 32 secret bytes (public keys have 33 or 65).
_SUSPICIOUS = re.compile(r"key|seed|scalar|entropy|signing", re.I)
_HEX32 = re.compile(r"(0x)?[0-9a-fA-F]{64}")

# Libraries that tell each byte they move; only their warnings concern an operator. libp2p is not
# among them: any stranger can make it complain with each connection, so ``network.identity`` keeps
# all of it out, and ``network.admission`` tells what ends a handshake, in bounds.
_CHATTY = ("httpx", "httpcore", "hypercorn", "h11", "multiaddr", "asyncio", "urllib3")


def configure_logging(
    format: str = "json", level: str = "info", seat: int | None = None, stream: TextIO | None = None
) -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        format: ``json`` (one object per line) or ``pretty``.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        seat: bound to every line when given.
        stream: where lines go; stderr by default.
    """
    # None when the process was started with a closed one.
    out = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    if seat is not None:

        def bind_seat(_: Any, __: str, event: structlog.typing.EventDict) -> Any:
            event.setdefault("seat", seat)
            return event

        shared.insert(0, bind_seat)
    renderer: structlog.typing.Processor
    if format == "json":
        renderer = structlog.processors.JSONRenderer(default=_text_of)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )

    def lost_line(count: int) -> str:
        line: Any = {"event": "log_lines_lost", "count": count}
        for process in (*shared, renderer):
            line = process(None, "warning", line)
        return f"{line}\n"

    lines = cast(TextIO, LogStream(out, lost_line))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(lines),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _CHATTY:
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(max(number, logging.WARNING))


def configure_command_logging(level: str = "info") -> None:
    """For a command, whose standard output is its answer: short lines on stderr, secrets cut out.

    Leaves logging alone when it is set up already.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,  # with rich at hand, variables would be shown
            redact,
            structlog.dev.ConsoleRenderer(
                colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        # Looked up at each line: who runs a command inside his own process may turn stderr around.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """structlog processor: cut secrets, control characters and overlong values."""
    return {
        key: value if key in ("_record", "_from_structlog") else _clean(str(key), value, 0)
        for key, value in event.items()
    }


def _clean(name: str, value: Any, depth: int) -> Any:
    if name not in _PUBLIC and (_NEVER.search(name) or _NEVER_WORD.search(name)):
        return REDACTED if value is not None and not isinstance(value, bool) else value
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        if len(raw) == 32 and _SUSPICIOUS.search(name):
            return REDACTED
        return raw[: TEXT_LENGTH_MAX // 2].hex()
    if isinstance(value, str):
        if _SUSPICIOUS.search(name) and _HEX32.fullmatch(value.strip()):
            return REDACTED
        # A traceback is our own text and is made of lines.
        return _one_line(value, keep_newlines=name in ("exception", "stack"))
    if isinstance(value, bool | int | float) or value is None:
        if isinstance(value, int) and value.bit_length() > 128 and _SUSPICIOUS.search(name):
            return REDACTED
        return value
    if depth >= DEPTH_MAX:
        return "..."
    if isinstance(value, Mapping):
        items = list(value.items())[:ITEMS_MAX]
        return {str(k): _clean(str(k), v, depth + 1) for k, v in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, item, depth + 1) for item in list(value)[:ITEMS_MAX]]
    return _clean(name, _text_of(value), depth + 1)


def _text_of(value: Any) -> str:
    """Text of any value; exceptions without their repr's quotes."""
    return str(value) if isinstance(value, BaseException) else repr(value)


def _one_line(text: str, keep_newlines: bool) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        text = text[:TEXT_LENGTH_MAX] + "..."
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or (keep_newlines and c == "\n")
        else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )
