"""Client of the dstack guest agent, for guest APIs v0 (released) and v1 (0.6).

Methods and shapes: ``docs/guest-api-v0.md`` and ``docs/guest-api-v1.md`` of Dstack-TEE/dstack.
The agent is inside our own trust boundary, but it may be old, new, slow, or not up yet, and
whoever controls the socket file could stand in for it: every answer is bounded and validated, and
keys count only after ``verify_chain``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from .errors import (
    AgentError,
    AgentProtocolError,
    AgentRefused,
    AgentTimeout,
    AgentUnavailable,
    ApiNotMounted,
    EvidenceError,
    MethodMissing,
    QuoteError,
)
from .event_log import EVENT_LOG_BYTES_MAX
from .evidence import ATTESTATION_BYTES_MAX, Evidence, decode_attestation
from .keys import PUBLIC_KEY_BYTES, SECRET_BYTES, SIGNATURE_BYTES, SecretKey
from .quotes import QUOTE_BYTES_MAX, REPORT_DATA_BYTES, parse_quote
from .strict_json import hex_bytes, hex_field, parse_object, text_field
from .unix_http import connect, post

# The new location first: where both exist, the old one is the compatibility link.
DEFAULT_SOCKETS = (
    "/var/run/dstack/dstack.sock",
    "/run/dstack/dstack.sock",
    "/var/run/dstack.sock",
    "/run/dstack.sock",
)
BODY_BYTES_MAX = 1024 * 1024
AGENT_TEXT_CHARS_MAX = 300
NAME_CHARS_MAX = 256
VERSION_CHARS_MAX = 128
PATH_BYTES_MAX = 1024

_LONG_HEX = re.compile(r"[0-9a-fA-F]{32,}")


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """Version text and source revision as the agent names them, printable."""

    version: str
    rev: str


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What the agent says of its machine; unproven until a quote shows it.

    ``app_id`` 20 bytes. ``instance_id`` 20 bytes, or empty for an app with ``no_instance_id``.
    ``compose_hash``, ``device_id``, ``os_image_hash``, ``mr_aggregated``: 32 bytes, or empty when
    the agent does not know them. ``tcb_info`` (v0), ``app_compose`` (v1), ``vm_config`` and
    ``key_provider_info`` are texts as given, left out of the repr for their size.
    """

    app_id: bytes
    instance_id: bytes
    app_name: str
    compose_hash: bytes
    device_id: bytes
    os_image_hash: bytes
    mr_aggregated: bytes
    tcb_info: str = field(repr=False)
    app_compose: str = field(repr=False)
    vm_config: str = field(repr=False)
    key_provider_info: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A derived key and the chain that came with it, not yet verified.

    ``public_key`` (33 bytes) was computed from the secret here. Signatures: 65 bytes, v as sent.
    """

    secret: SecretKey
    public_key: bytes
    app_signature: bytes
    kms_signature: bytes


class GuestAgent:
    """The guest agent behind a Unix socket; every call opens its own connection.

    ``socket_path``: where it listens; None tries ``DEFAULT_SOCKETS`` in order at every call, so an
    agent that comes up later is found. ``deadline_s`` bounds each call, ``quote_deadline_s`` those
    for quotes, which one enclave makes for the whole host; ``body_bytes_max`` bounds each answer.
    Environment variables are not consulted: in a CVM the host can choose them.

    Every method raises a subclass of AgentError.
    """

    def __init__(
        self,
        socket_path: str | None = None,
        *,
        deadline_s: float = 10,
        quote_deadline_s: float = 60,
        body_bytes_max: int = BODY_BYTES_MAX,
        default_sockets: Sequence[str] = DEFAULT_SOCKETS,
    ) -> None:
        if deadline_s <= 0 or quote_deadline_s <= 0 or body_bytes_max <= 0:
            raise ValueError("deadlines and body limit are positive")
        self._paths = tuple(default_sockets) if socket_path is None else (socket_path,)
        self._deadline_s = deadline_s
        self._quote_deadline_s = quote_deadline_s
        self._body_bytes_max = body_bytes_max

    def __repr__(self) -> str:
        return f"GuestAgent({' | '.join(self._paths)})"

    async def version(self) -> AgentVersion | None:
        """Version of the agent, or None before 0.5.7, when the method did not exist."""
        try:
            return _version(await self._call("/Version", {}))
        except MethodMissing:
            return None

    async def supports_v1(self) -> bool:
        """Whether guest API v1 is served: ``/v1/Version`` answers 200, or 404 when it is not."""
        try:
            _version(await self._call("/v1/Version", {}))
        except (ApiNotMounted, MethodMissing):
            return False
        return True

    async def info(self) -> AgentInfo:
        """App, instance and measurement names, from v0 or, where that is gone, from v1."""
        try:
            reply = await self._call("/Info", {})
        except ApiNotMounted:
            reply = await self._call("/v1/Info", {})
        return _info(reply)

    async def get_key_v0(self, path: str, purpose: str) -> AgentKey:
        """The secp256k1 key that v0 derives from ``path``, with a claim over ``purpose``.

        Only ``path`` enters the derivation; every instance of the app gets the same key for it.
        """
        _check_name("path", path)
        _check_name("purpose", purpose)
        # No "algorithm": agents up to 0.5.5 ignore it, later ones default to secp256k1.
        reply = await self._call("/GetKey", {"path": path, "purpose": purpose}, keys=True)
        return _key(reply)

    async def get_key_v1(self, domain: str) -> AgentKey:
        """The secp256k1 key that v1 derives from ``domain``; differs from v0's for every input."""
        _check_name("domain", domain)
        reply = await self._call(
            "/v1/GetKey", {"domain": domain, "algorithm": "secp256k1"}, keys=True
        )
        key = _key(reply)
        if hex_field(reply, "public_key", PUBLIC_KEY_BYTES) != key.public_key:
            raise AgentProtocolError("field public_key: is not the public half of field key")
        return key

    async def get_quote(self, report_data: bytes) -> tuple[bytes, bytes]:
        """A fresh quote over ``report_data`` (64 bytes), and the event log's JSON text.

        From v0 ``GetQuote`` or, where that is gone, v1 ``Attest``. Neither is verified here, but a
        quote over anything else than what was asked is refused.
        """
        # Shorter data would be padded by the agent; whoever wants that has to pad it himself.
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError(f"report data has {REPORT_DATA_BYTES} bytes, got {len(report_data)}")
        request = {"report_data": report_data.hex()}
        deadline_s = self._quote_deadline_s
        try:
            evidence = _quote(await self._call("/GetQuote", request, deadline_s=deadline_s))
        except (ApiNotMounted, MethodMissing):
            reply = await self._call("/v1/Attest", request, deadline_s=deadline_s)
            evidence = _attestation(reply)
        try:
            quote = parse_quote(evidence.quote)
        except QuoteError as error:
            raise AgentProtocolError(f"field quote: {error}") from None
        if quote.report_data != report_data:
            raise AgentProtocolError("field quote: is over other report data than asked for")
        return evidence.quote, evidence.event_log

    async def wait_ready(
        self,
        *,
        on_attempt: Callable[[int, AgentError], None] | None = None,
        backoff_s: float = 0.1,
        backoff_s_max: float = 5,
    ) -> AgentInfo:
        """Ask for Info until it is given; returns it. Waits for ever: cancel it to give up.

        ``on_attempt`` hears of each failure: its number from 1, and the error. The pause doubles
        from ``backoff_s`` to ``backoff_s_max``. An agent that is absent, slow or refuses (it does,
        while it still fetches its keys) is asked again; one that speaks another protocol, or lacks
        Info, will not become right by waiting: AgentProtocolError, ApiNotMounted, MethodMissing.
        """
        attempt = 0
        pause_s = backoff_s
        while True:
            try:
                return await self.info()
            except (MethodMissing, ApiNotMounted):
                raise
            except (AgentUnavailable, AgentTimeout, AgentRefused) as error:
                attempt += 1
                if on_attempt is not None:
                    on_attempt(attempt, error)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, backoff_s_max)

    async def _call(
        self,
        target: str,
        request: Mapping[str, str],
        *,
        keys: bool = False,
        deadline_s: float | None = None,
    ) -> Mapping[str, Any]:
        body = json.dumps(request).encode()
        if deadline_s is None:
            deadline_s = self._deadline_s
        with trio.move_on_after(deadline_s):
            _, stream = await connect(self._paths)
            answer = await post(stream, target, body, body_bytes_max=self._body_bytes_max)
            if answer.status == 200:
                try:
                    return parse_object(answer.body)
                except AgentProtocolError as error:
                    raise AgentProtocolError(f"{target}: {error}") from None
            raise _refusal(target, answer.status, answer.body, keys=keys)
        raise AgentTimeout(f"{target}: no whole answer within {deadline_s:g} s")


def _refusal(target: str, status: int, body: bytes, *, keys: bool) -> AgentRefused:
    raw: object = None
    is_json = True
    try:
        raw = parse_object(body).get("error")
    except AgentProtocolError:
        is_json = False
    text = _agent_text(raw, keys=keys) if isinstance(raw, str) else ""
    message = f"{target}: the agent answered {status}" + (f": {text}" if text else "")
    kind: type[AgentRefused] = AgentRefused
    if status == 404:
        kind = MethodMissing if is_json else ApiNotMounted
    return kind(message, status=status, agent_text=text)


def _agent_text(text: str, *, keys: bool) -> str:
    """The agent's words made safe for a terminal and a log; no key bytes if it could echo any."""
    text = text[: 4 * AGENT_TEXT_CHARS_MAX]
    if keys:
        text = _LONG_HEX.sub("(hex removed)", text)
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > AGENT_TEXT_CHARS_MAX:
        text = text[: AGENT_TEXT_CHARS_MAX - 3] + "..."
    return text


def _version(reply: Mapping[str, Any]) -> AgentVersion:
    version = _printable(reply, "version", VERSION_CHARS_MAX)
    if not version:
        raise AgentProtocolError("field version: expected text, got nothing")
    return AgentVersion(version, _printable(reply, "rev", VERSION_CHARS_MAX))


def _info(reply: Mapping[str, Any]) -> AgentInfo:
    def long_text(name: str) -> str:
        return text_field(reply, name, chars_max=BODY_BYTES_MAX)

    tcb_info = long_text("tcb_info")
    # Agents differ in what they repeat at the top; v0's tcb_info has always had these.
    inner: Mapping[str, Any] = parse_object(tcb_info.encode()) if tcb_info else {}

    def hash_named(name: str) -> bytes:
        return hex_field(reply, name, 0, 32) or hex_field(inner, name, 0, 32)

    return AgentInfo(
        app_id=hex_field(reply, "app_id", 20),
        instance_id=hex_field(reply, "instance_id", 0, 20),
        app_name=_printable(reply, "app_name", NAME_CHARS_MAX),
        compose_hash=hash_named("compose_hash"),
        device_id=hash_named("device_id"),
        os_image_hash=hash_named("os_image_hash"),
        mr_aggregated=hash_named("mr_aggregated"),
        tcb_info=tcb_info,
        app_compose=long_text("app_compose"),
        vm_config=long_text("vm_config"),
        key_provider_info=long_text("key_provider_info"),
    )


def _key(reply: Mapping[str, Any]) -> AgentKey:
    try:
        secret = SecretKey(hex_field(reply, "key", SECRET_BYTES))
    except ValueError as error:
        raise AgentProtocolError(f"field key: {error}") from None
    chain = reply.get("signature_chain")
    if not isinstance(chain, list) or len(chain) != 2:
        raise AgentProtocolError("field signature_chain: expected a list of 2 signatures")
    app_signature, kms_signature = (
        hex_bytes(item, f"field signature_chain[{index}]", SIGNATURE_BYTES)
        for index, item in enumerate(chain)
    )
    return AgentKey(secret, secret.public_key(), app_signature, kms_signature)


def _quote(reply: Mapping[str, Any]) -> Evidence:
    text = text_field(reply, "quote", chars_max=2 * QUOTE_BYTES_MAX)
    event_log = text_field(reply, "event_log", chars_max=EVENT_LOG_BYTES_MAX).encode()
    if len(event_log) > EVENT_LOG_BYTES_MAX:
        raise AgentProtocolError(f"field event_log: at most {EVENT_LOG_BYTES_MAX} bytes")
    return Evidence(hex_bytes(text, "field quote", len(text) // 2), event_log)


def _attestation(reply: Mapping[str, Any]) -> Evidence:
    text = text_field(reply, "attestation", chars_max=2 * ATTESTATION_BYTES_MAX)
    try:
        return decode_attestation(hex_bytes(text, "field attestation", len(text) // 2))
    except EvidenceError as error:
        raise AgentProtocolError(f"field attestation: {error}") from None


def _printable(obj: Mapping[str, Any], name: str, chars_max: int) -> str:
    text = text_field(obj, name, chars_max=chars_max)
    return "".join(c if c.isprintable() else "?" for c in text)


def _check_name(what: str, text: str) -> None:
    if len(text.encode()) > PATH_BYTES_MAX:
        raise ValueError(f"{what}: at most {PATH_BYTES_MAX} bytes")
