"""Event logs: replayed whole or stripped, in both versions, and read only as far as boot."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from evidence_world import ENTRIES, EVENT_LOG, MOCK, PAYLOAD, QUOTE, VECTORS

from attest import EventLogError, parse_event_log, replay, runtime_facts
from attest.event_log import (
    RUNTIME_EVENT_TYPE,
    EventLog,
    encode_event_log,
    event_digest,
    extend,
    mr_aggregated,
    mr_system,
)
from attest.quotes import parse_quote

SIMULATOR = VECTORS["simulator_attestation"]


def entry(name: str, payload: bytes = b"", **more: Any) -> dict[str, Any]:
    return {
        "imr": 3,
        "event_type": RUNTIME_EVENT_TYPE,
        "digest": "",
        "event": name,
        "event_payload": payload.hex(),
        **more,
    }


def parsed(entries: list[dict[str, Any]]) -> EventLog:
    return parse_event_log(json.dumps(entries).encode())


def with_entry(name: str, **changed: Any) -> list[dict[str, Any]]:
    """The mock's log, one event of it changed and its digest left to be computed."""
    return [
        {**item, "digest": "", **changed} if item["event"] == name else item for item in ENTRIES
    ]


@pytest.mark.parametrize("vector", VECTORS["runtime_event_digest"])
def test_runtime_digests_are_those_of_the_vectors(vector: dict[str, str]) -> None:
    payload = bytes.fromhex(vector["payload"])
    for version in (1, 2):
        digest = event_digest(RUNTIME_EVENT_TYPE, vector["event"], payload, version)
        assert digest.hex() == vector[f"v{version}_sha384"]
    second = entry(vector["event"], payload, version=2, preimage=vector["v2_preimage"])
    assert parsed([second]).events[0].digest.hex() == vector["v2_sha384"]


@pytest.mark.parametrize("vector", VECTORS["runtime_event_digest"])
def test_where_no_version_is_told_the_digest_tells_it(vector: dict[str, str]) -> None:
    payload = bytes.fromhex(vector["payload"])
    for version in (1, 2):
        digest = vector[f"v{version}_sha384"]
        (event,) = parsed([entry(vector["event"], payload, digest=digest)]).events
        assert (event.version, event.digest.hex()) == (version, digest)
        with pytest.raises(EventLogError, match="commit"):
            parsed([entry(vector["event"], payload, digest=digest, version=3 - version)])
    assert parsed([entry(vector["event"], payload)]).events[0].version == 1


def test_a_full_and_a_stripped_log_lead_to_the_same_register() -> None:
    full = parse_event_log(EVENT_LOG)
    stripped = parsed([{**item, "digest": ""} for item in ENTRIES])
    assert replay(full)[3] == replay(stripped)[3] == parse_quote(QUOTE).rtmrs[3]
    assert replay(full)[3].hex() == MOCK["rtmr3_hex"]
    assert parse_event_log(encode_event_log(full)) == full


def test_the_simulators_measurements_are_those_of_the_vectors() -> None:
    log = parsed(
        [entry(e["event"], bytes.fromhex(e["payload"])) for e in SIMULATOR["rtmr3_events"]]
    )
    td = SIMULATOR["td10"]
    rtmrs = [bytes.fromhex(td[f"rt_mr{index}"]) for index in range(4)]
    assert replay(log)[3] == rtmrs[3]
    facts = runtime_facts(log)
    assert facts.rtmr3_boot.hex() == SIMULATOR["rtmr3_up_to_boot_mr_done"]
    mrtd = bytes.fromhex(td["mr_td"])
    config = tuple(bytes.fromhex(td[n]) for n in ("mr_config_id", "mr_owner", "mr_owner_config"))
    assert len(config) == 3
    assert mr_aggregated(mrtd, rtmrs, config).hex() == SIMULATOR["mr_aggregated"]
    boot = (*rtmrs[:3], facts.rtmr3_boot)
    assert mr_aggregated(mrtd, boot, config).hex() == SIMULATOR["mr_aggregated_boottime"]
    assert mr_system(mrtd, rtmrs, facts.key_provider).hex() == SIMULATOR["mr_system"]


def test_the_facts_are_those_before_system_ready() -> None:
    facts = runtime_facts(parse_event_log(EVENT_LOG))
    assert facts.app_id == PAYLOAD["app-id"]
    assert facts.compose_hash == PAYLOAD["compose-hash"]
    assert facts.instance_id == PAYLOAD["instance-id"]
    assert facts.os_image_hash == PAYLOAD["os-image-hash"]
    assert facts.key_provider is not None
    assert (facts.key_provider.name, facts.key_provider.id) == ("kms", b"\0")
    # What the application says afterwards changes the register and nothing else.
    claimed = parsed([*ENTRIES, entry("app-id", b"\x66" * 20), entry("", b"?"), entry("a:b")])
    assert runtime_facts(claimed) == facts
    assert replay(claimed)[3] != parse_quote(QUOTE).rtmrs[3]


def test_an_image_that_measures_no_image_hash_and_no_instance_is_read() -> None:
    entries = [item for item in with_entry("instance-id", event_payload="")]
    facts = runtime_facts(parsed([item for item in entries if item["event"] != "os-image-hash"]))
    assert (facts.instance_id, facts.os_image_hash) == (b"", b"")


@pytest.mark.parametrize(
    "name", sorted(set(PAYLOAD) - {"storage-fs", "os-image-hash", "key-provider"})
)
def test_a_log_without_what_every_boot_measures_is_refused(name: str) -> None:
    with pytest.raises(EventLogError):
        runtime_facts(parsed([item for item in ENTRIES if item["event"] != name]))


@pytest.mark.parametrize("name", sorted(set(PAYLOAD) - {"system-ready"}))
def test_a_value_that_stands_twice_is_refused(name: str) -> None:
    twice = [ENTRIES[0], *ENTRIES[1:-1], entry(name, PAYLOAD[name]), ENTRIES[-1]]
    with pytest.raises(EventLogError, match="twice"):
        runtime_facts(parsed(twice))


def test_another_order_than_dstacks_is_refused() -> None:
    for first, second in ((1, 2), (0, 1), (3, 4), (4, 5), (2, 6)):
        swapped = list(ENTRIES)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        with pytest.raises(EventLogError):
            runtime_facts(parsed(swapped))


@pytest.mark.parametrize("name", ["", "app-id:x"])
def test_a_name_with_two_readings_is_refused_before_system_ready(name: str) -> None:
    with pytest.raises(EventLogError, match="name"):
        runtime_facts(parsed([*ENTRIES[:-1], entry(name), ENTRIES[-1]]))


def test_an_event_in_disguise_cannot_hide_in_register_3() -> None:
    # "system-ready" as an opaque digest would make what the application says look like boot's.
    ready = {**ENTRIES[-1], "event": "", "event_type": 4}
    with pytest.raises(EventLogError, match="register 3"):
        parsed([*ENTRIES[:-1], ready, entry("os-image-hash", bytes(32)), ENTRIES[-1]])


@pytest.mark.parametrize(
    "changed",
    [
        {"digest": "00" * 48},
        {"digest": "00"},
        {"digest": 1},
        {"event_payload": "0"},
        {"event_payload": None},
        {"event_payload": "00" * 40_000},
        {"event": 1},
        {"event": "x" * 300},
        {"event": "\ud800"},
        {"imr": 4},
        {"imr": -1},
        {"imr": True},
        {"imr": 3.0},
        {"event_type": 1 << 32},
        {"event_type": None},
        {"version": 0},
        {"version": 3},
        {"version": 2, "preimage": "{}"},
    ],
)
def test_malformed_events_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(EventLogError):
        parsed(with_entry("storage-fs", **changed))


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("app-id", "00" * 19),
        ("compose-hash", ""),
        ("instance-id", "00" * 32),
        ("os-image-hash", "00"),
        ("key-provider", b"{}".hex()),
        ("key-provider", b'{"name":"kms","id":"xyz"}'.hex()),
        ("key-provider", b'{"name":"","id":""}'.hex()),
        ("key-provider", b"[]".hex()),
    ],
)
def test_values_of_the_wrong_size_are_refused(name: str, payload: str) -> None:
    with pytest.raises(EventLogError, match=name):
        runtime_facts(parsed(with_entry(name, event_payload=payload)))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1]", b"\xff", b"[" * 100, b"[" + b"{}," * 600 + b"{}]", b" " * 200_000]
)
def test_what_is_no_log_is_refused(text: bytes) -> None:
    with pytest.raises(EventLogError):
        parse_event_log(text)


def test_firmware_events_count_by_their_digest() -> None:
    digest = b"\x05" * 48
    log = parsed([{"imr": 1, "event_type": 4, "digest": digest.hex(), "event": ""}])
    assert replay(log)[1] == hashlib.sha384(bytes(48) + digest).digest() == extend(log.events)
    assert not log.is_partial(1)
    acpi = {"imr": 0, "event_type": 10, "digest": digest.hex(), "event_payload": b"ACPI DATA".hex()}
    assert parsed([acpi]).is_partial(0)
    with pytest.raises(EventLogError, match="48 bytes"):
        parsed([{"imr": 1, "event_type": 4, "digest": "", "event": ""}])
