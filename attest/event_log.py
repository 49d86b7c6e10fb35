"""The event log that explains a quote's four runtime measurement registers (RTMR).

A register starts at zero; each event extends it: register = SHA-384(register || digest). Firmware
and kernel fill 0 to 2, their events count by digest. dstack's boot fills 3 with *runtime events*,
whose digest commits to a name and a payload: V1 hashes ``type : name : payload``, V2 a canonical
JSON object. Agents since 0.5.6 strip logs: no payloads for 0 to 2, no digests for runtime events.
A runtime event's digest is therefore always computed here, and one that is given must agree.

Formats: ``cc-eventlog`` of Dstack-TEE/dstack; JCS is RFC 8785.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bounded_json import parse_json
from .errors import AgentProtocolError, EventLogError
from .strict_json import hex_bytes

EVENT_LOG_BYTES_MAX = 128 * 1024
EVENTS_MAX = 512
EVENT_NAME_CHARS_MAX = 256
PAYLOAD_BYTES_MAX = 32 * 1024
DIGEST_BYTES = 48
REGISTERS = 4

RUNTIME_REGISTER = 3
RUNTIME_EVENT_TYPE = 0x08000001
VERSION_1 = 1
VERSION_2 = 2

SYSTEM_READY = "system-ready"
BOOT_MR_DONE = "boot-mr-done"
_SINGLE = frozenset(
    {
        "system-preparing",
        "app-id",
        "compose-hash",
        "gpu-policy-hash",
        "instance-id",
        BOOT_MR_DONE,
        "os-image-hash",
        "key-provider",
        "storage-fs",
        SYSTEM_READY,
    }
)
_ACPI_EVENT_TYPE = 10
_ACPI_PAYLOAD = b"ACPI DATA"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry. ``digest`` (48 bytes) is what the register was extended with.

    ``register`` 0 to 3. ``name`` is empty for firmware events, ``payload`` empty in stripped logs.
    ``version`` tells how a runtime event's digest was made (1 or 2).
    """

    register: int
    event_type: int
    digest: bytes
    name: str
    payload: bytes
    version: int = VERSION_1


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log: every runtime event's digest commits to its name and payload."""

    events: tuple[Event, ...]

    def of(self, register: int) -> tuple[Event, ...]:
        """The events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)

    def is_partial(self, register: int) -> bool:
        """Whether a register's events were left out, all or all but the ACPI tables' digests."""
        return all(
            event.event_type == _ACPI_EVENT_TYPE and event.payload == _ACPI_PAYLOAD
            for event in self.of(register)
        )


@dataclass(frozen=True, slots=True)
class KeyProvider:
    """Where the machine's keys come from: ``name`` kms, local-sgx, tpm or none; ``id`` its bytes.

    For kms the id is the root CA's public key (SubjectPublicKeyInfo, DER), for local-sgx the
    enclave's measurement. ``raw`` is the event's payload, which mr_system hashes.
    """

    name: str
    id: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What dstack's boot measured before the application ran; true if RTMR3 replays to the quote's.

    ``app_id`` 20 bytes, ``compose_hash`` 32 bytes, ``instance_id`` 20 bytes or empty,
    ``os_image_hash`` 32 bytes or empty (older images do not measure it), ``key_provider`` None
    when the log names none. ``rtmr3_boot`` (48 bytes) is the register after ``boot-mr-done``.
    """

    app_id: bytes
    compose_hash: bytes
    instance_id: bytes
    os_image_hash: bytes
    key_provider: KeyProvider | None
    rtmr3_boot: bytes


def event_digest(event_type: int, name: str, payload: bytes, version: int) -> bytes:
    """SHA-384 with which a runtime event extends its register, in version 1 or 2."""
    if version == VERSION_2:
        preimage = _preimage_v2(event_type, name, payload)
    else:
        preimage = event_type.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    return hashlib.sha384(preimage).digest()


def parse_event_log(text: bytes) -> EventLog:
    """A log from the agent's JSON text: full or stripped, events of both versions.

    Raises:
        EventLogError: larger than 128 KiB or 512 events, malformed, or a runtime event whose
            digest does not commit to its name and payload.
    """
    if len(text) > EVENT_LOG_BYTES_MAX:
        raise EventLogError(f"an event log has at most {EVENT_LOG_BYTES_MAX} bytes")
    try:
        value = parse_json(text)
    except ValueError as error:
        raise EventLogError(f"not JSON: {error}") from None
    if not isinstance(value, list) or len(value) > EVENTS_MAX:
        raise EventLogError(f"expected a list of at most {EVENTS_MAX} events")
    return EventLog(tuple(_event(item, index) for index, item in enumerate(value)))


def encode_event_log(log: EventLog) -> bytes:
    """The JSON text of a log, full digests included; ``parse_event_log`` gives the log back."""
    entries = []
    for event in log.events:
        entry: dict[str, object] = {
            "imr": event.register,
            "event_type": event.event_type,
            "digest": event.digest.hex(),
            "event": event.name,
            "event_payload": event.payload.hex(),
        }
        if event.version != VERSION_1:
            entry["version"] = event.version
        entries.append(entry)
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()


def replay(log: EventLog) -> tuple[bytes, bytes, bytes, bytes]:
    """The four registers (48 bytes each) that the log leads to."""
    r0, r1, r2, r3 = (extend(log.of(register)) for register in range(REGISTERS))
    return r0, r1, r2, r3


def extend(events: Iterable[Event], start: bytes = bytes(DIGEST_BYTES)) -> bytes:
    """The register after ``events``, from ``start`` (48 bytes, zero at boot)."""
    register = start
    for event in events:
        register = hashlib.sha384(register + event.digest).digest()
    return register


def runtime_facts(log: EventLog) -> RuntimeFacts:
    """What the events before ``system-ready`` say; later ones are the application's own words.

    Raises:
        EventLogError: a single-valued event twice, an empty or ambiguous name, another order than
            dstack's, or a value of the wrong size; ``app-id`` or ``compose-hash`` missing.
    """
    boot: list[Event] = []
    ready = False
    for event in log.of(RUNTIME_REGISTER):
        boot.append(event)
        if event.name == SYSTEM_READY:
            ready = True
            break
    if not ready:
        raise EventLogError(f"no event {SYSTEM_READY}: the boot did not finish")
    place: dict[str, int] = {}
    for index, event in enumerate(boot):
        # A colon in a name could stand where the payload begins in a V1 digest: two readings.
        if not event.name or ":" in event.name:
            raise EventLogError(f"runtime event {index}: a name without colon is expected")
        if event.name in _SINGLE and event.name in place:
            raise EventLogError(f"event {event.name} stands in the log twice")
        place.setdefault(event.name, index)
    _check_order(place)
    values = {event.name: event.payload for event in boot}
    provider = values.get("key-provider")
    return RuntimeFacts(
        app_id=_sized(values, "app-id", 20),
        compose_hash=_sized(values, "compose-hash", 32),
        instance_id=_sized(values, "instance-id", 0, 20),
        os_image_hash=_sized(values, "os-image-hash", 0, 32) if "os-image-hash" in values else b"",
        key_provider=None if provider is None else _key_provider(provider),
        rtmr3_boot=extend(boot[: place[BOOT_MR_DONE] + 1]),
    )


def mr_aggregated(
    mr_td: bytes, rtmrs: Sequence[bytes], config: tuple[bytes, bytes, bytes]
) -> bytes:
    """dstack's SHA-256 over all measurements (32 bytes).

    ``config``: mr_config_id, mr_owner, mr_owner_config of the quote; they enter when any is not
    zero. With RuntimeFacts.rtmr3_boot as the last register it is the boot-time variant.
    """
    tail = b"".join(config)
    return hashlib.sha256(mr_td + b"".join(rtmrs) + (tail if any(tail) else b"")).digest()


def mr_system(mr_td: bytes, rtmrs: Sequence[bytes], key_provider: KeyProvider | None) -> bytes:
    """dstack's SHA-256 over firmware, kernel and key provider (32 bytes); RTMR3 does not enter."""
    provider = bytes(32) if key_provider is None else hashlib.sha256(key_provider.raw).digest()
    return hashlib.sha256(mr_td + b"".join(rtmrs[:3]) + provider).digest()


def _event(item: object, index: int) -> Event:
    what = f"event {index}"
    if not isinstance(item, dict):
        raise EventLogError(f"{what}: expected an object")
    register = _number(item, "imr", REGISTERS - 1, what)
    event_type = _number(item, "event_type", 0xFFFFFFFF, what)
    version = _number(item, "version", VERSION_2, what) if "version" in item else None
    name = item.get("event", "")
    if not isinstance(name, str) or len(name) > EVENT_NAME_CHARS_MAX:
        raise EventLogError(f"{what}: the name is a text of at most {EVENT_NAME_CHARS_MAX}")
    try:
        name.encode()
        digest = hex_bytes(item.get("digest", ""), f"{what} digest", 0, DIGEST_BYTES)
        payload = _payload(item.get("event_payload", ""), f"{what} payload")
    except UnicodeEncodeError:
        raise EventLogError(f"{what}: the name is half a surrogate pair") from None
    except AgentProtocolError as error:
        raise EventLogError(str(error)) from None
    preimage = item.get("preimage")
    return make_event(register, event_type, digest, name, payload, version, preimage, what=what)


def make_event(
    register: int,
    event_type: int,
    digest: bytes,
    name: str,
    payload: bytes,
    version: int | None = None,
    preimage: object = None,
    *,
    what: str = "event",
) -> Event:
    """An event whose digest is checked, or computed where a runtime event has none.

    ``version`` None is where a format has no place for it (SCALE): the digest then tells, and 1 is
    taken where there is none. Either version's digest commits to name and payload.

    Raises EventLogError.
    """
    if event_type != RUNTIME_EVENT_TYPE:
        if register == RUNTIME_REGISTER:
            # Its digest would commit to nothing readable, and could be a runtime event's in
            # disguise: "system-ready" hidden so makes the application's events look like boot's.
            raise EventLogError(f"{what}: register 3 takes runtime events only")
        if len(digest) != DIGEST_BYTES:
            raise EventLogError(f"{what}: a digest of {DIGEST_BYTES} bytes is expected")
        return Event(register, event_type, digest, name, payload)
    if version not in (None, VERSION_1, VERSION_2):
        raise EventLogError(f"{what}: version 1 or 2 is expected, got {version}")
    if version is None:
        is_second = digest and digest == event_digest(event_type, name, payload, VERSION_2)
        version = VERSION_2 if is_second else VERSION_1
    computed = event_digest(event_type, name, payload, version)
    if digest and digest != computed:
        raise EventLogError(f"{what} ({name!r}): the digest does not commit to name and payload")
    if preimage is not None and version == VERSION_2:
        expected = _preimage_v2(event_type, name, payload)
        if preimage not in (expected.decode(), expected.hex()):
            raise EventLogError(f"{what} ({name!r}): the preimage is not that of its fields")
    return Event(register, event_type, computed, name, payload, version)


def _preimage_v2(event_type: int, name: str, payload: bytes) -> bytes:
    # json's escapes of a text are those of JCS; keys stand in JCS order.
    document = {"name": name, "payload": payload.hex(), "type": event_type}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _payload(text: object, what: str) -> bytes:
    if isinstance(text, str) and len(text) % 2 == 0 and len(text) <= 2 * PAYLOAD_BYTES_MAX:
        return hex_bytes(text, what, len(text) // 2)
    raise EventLogError(f"{what}: expected hex of at most {PAYLOAD_BYTES_MAX} bytes")


def _number(item: Mapping[str, Any], name: str, highest: int, what: str) -> int:
    value = item.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise EventLogError(f"{what}: {name} is a number from 0 to {highest}")
    return value


def _check_order(place: Mapping[str, int]) -> None:
    previous = -1
    for name in ("system-preparing", "app-id", "compose-hash", "instance-id", BOOT_MR_DONE):
        if name not in place:
            raise EventLogError(f"event {name} is missing")
        if place[name] < previous:
            raise EventLogError(f"event {name} stands too early")
        previous = place[name]
    for name in ("os-image-hash", "key-provider", "storage-fs"):
        if place.get(name, previous) < previous:
            raise EventLogError(f"event {name} stands before {BOOT_MR_DONE}")


def _sized(values: Mapping[str, bytes], name: str, *sizes: int) -> bytes:
    value = values[name]
    if len(value) not in sizes:
        expected = " or ".join(str(size) for size in sizes)
        raise EventLogError(f"event {name}: expected {expected} bytes, got {len(value)}")
    return value


def _key_provider(raw: bytes) -> KeyProvider:
    try:
        value = parse_json(raw)
        name, id_text = value["name"], value["id"]
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not isinstance(id_text, str):
            raise ValueError("name and id are texts")
        return KeyProvider(name, bytes.fromhex(id_text), raw)
    except (ValueError, KeyError, TypeError) as error:
        raise EventLogError(f"event key-provider: {type(error).__name__}") from None
