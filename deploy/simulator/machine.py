"""A simulated confidential VM: what its boot measured, and the evidence that it gives of it.

The boot events are dstack's, in its order and with its payloads (``dstack-util`` and
``cc-eventlog`` of Dstack-TEE/dstack); MRTD and the registers 0 to 2 belong to an image that exists
only here. Logs are written as guest agents write them: full in ``Info``, stripped in ``GetQuote``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import serialization

from attest.event_log import (
    RUNTIME_EVENT_TYPE,
    RUNTIME_REGISTER,
    VERSION_1,
    VERSION_2,
    Event,
    EventLog,
    event_digest,
    mr_aggregated,
    replay,
)

from .tdx_collateral import FMSPC_FRESH, tee_tcb_svn
from .tdx_pki import PPID_BYTES, Platform, TdxPki, p256_key
from .tdx_quote import (
    ATTRIBUTE_DEBUG,
    ATTRIBUTE_SEPT_VE_DISABLE,
    MEASUREMENT_BYTES,
    QuotingEnclave,
    TdReport,
)

IMAGE = "dstack-cluster simulated image"
MEASURED = ("mrtd", "rtmr0", "rtmr1", "rtmr2")

_EFI_ACTION = 0x80000007
_EVENT_TAG = 6
_ACPI_DATA = 10
_ACPI_PAYLOAD = b"ACPI DATA"
# Register, type, payload of the firmware's and the kernel's events; fewer than a real boot has.
_FIRMWARE = (
    (0, 0x80000001, b"SecureBoot"),
    (0, _ACPI_DATA, _ACPI_PAYLOAD),
    (0, _ACPI_DATA, _ACPI_PAYLOAD),
    (0, _ACPI_DATA, _ACPI_PAYLOAD),
    (1, _EFI_ACTION, b"Calling EFI Application from Boot Option"),
    (1, 4, bytes(4)),
    (2, _EVENT_TAG, b"LOADED_IMAGE::LoadOptions"),
    (2, _EVENT_TAG, b"Linux initrd"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and what runs on it; equal machines give equal evidence, but for report data.

    ``app_id`` and ``instance_id`` have 20 bytes, ``kms_ca_spki`` is the DER of the KMS root CA's
    public key. ``altered`` names a measurement that another image would have (see MEASURED).
    """

    pki: TdxPki
    platform: Platform
    app_id: bytes
    instance_id: bytes
    app_compose: str
    kms_ca_spki: bytes
    tcb_status: str = "UpToDate"
    is_debug: bool = False
    altered: str = ""
    event_version: int = VERSION_1
    quote_version: int = 4

    @property
    def compose_hash(self) -> bytes:
        """SHA-256 of the app-compose text, 32 bytes."""
        return hashlib.sha256(self.app_compose.encode()).digest()

    @property
    def os_image_hash(self) -> bytes:
        """32 bytes; the same for all machines here."""
        return hashlib.sha256(IMAGE.encode()).digest()

    @property
    def device_id(self) -> bytes:
        """SHA-256 of the PPID, 32 bytes."""
        return hashlib.sha256(self.platform.ppid).digest()

    @property
    def mr_config_id(self) -> bytes:
        """Form 1 of dstack's 48 bytes: the compose hash, which the host gave before the boot."""
        return (b"\x01" + self.compose_hash).ljust(MEASUREMENT_BYTES, b"\0")

    @property
    def key_provider(self) -> bytes:
        """The JSON that dstack measures of where the keys come from."""
        provider = {"name": "kms", "id": self.kms_ca_spki.hex()}
        return json.dumps(provider, separators=(",", ":")).encode()

    @property
    def vm_config(self) -> str:
        """The JSON text that describes the VM's hardware."""
        return json.dumps(
            {
                "spec_version": 1,
                "os_image_hash": self.os_image_hash.hex(),
                "cpu_count": 2,
                "memory_size": 4 << 30,
            }
        )

    @property
    def mr_aggregated(self) -> bytes:
        """dstack's digest of all measurements, 32 bytes."""
        report = self.report(bytes(64))
        return mr_aggregated(
            report.mr_td,
            report.rtmrs,
            (report.mr_config_id, bytes(MEASUREMENT_BYTES), bytes(MEASUREMENT_BYTES)),
        )

    def event_log(self) -> EventLog:
        """Everything that the boot measured, in order."""
        return _boot(self)

    def report(self, report_data: bytes) -> TdReport:
        """What the TDX module would report, over 64 bytes of the caller's."""
        attributes = ATTRIBUTE_SEPT_VE_DISABLE | (ATTRIBUTE_DEBUG if self.is_debug else 0)
        return TdReport(
            tee_tcb_svn=tee_tcb_svn(self.tcb_status),
            mr_td=_image_digest("mrtd", self.altered),
            rtmrs=replay(self.event_log()),
            report_data=report_data,
            mr_config_id=self.mr_config_id,
            td_attributes=attributes,
        )

    def quote(self, report_data: bytes) -> bytes:
        """A signed quote over 64 bytes of the caller's."""
        enclave = _enclave(self.pki, self.platform)
        return enclave.quote(self.report(report_data), self.quote_version)


def make_machine(
    pki: TdxPki,
    *,
    seed: bytes,
    app_id: bytes,
    instance_id: bytes,
    app_compose: str,
    kms_root: bytes,
) -> Machine:
    """A sound machine. ``seed`` (20 bytes) also names its hardware, ``kms_root`` 32 bytes."""
    ppid = hashlib.sha256(b"simulated PPID:" + seed).digest()[:PPID_BYTES]
    ca_key = p256_key(kms_root, "simulated KMS root CA")
    return Machine(
        pki=pki,
        platform=Platform(ppid, FMSPC_FRESH),
        app_id=app_id,
        instance_id=instance_id,
        app_compose=app_compose,
        kms_ca_spki=ca_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def full_entries(log: EventLog) -> list[dict[str, Any]]:
    """The log as ``Info`` tells it."""
    return [_entry(event) for event in log.events]


def entries_with_preimages(log: EventLog) -> list[dict[str, Any]]:
    """The full log in which events of version 2 carry the text that was hashed, as hex."""
    entries = full_entries(log)
    for entry, event in zip(entries, log.events, strict=True):
        if event.version == VERSION_2:
            entry["preimage"] = _preimage_v2(event).hex()
    return entries


def stripped_entries(log: EventLog) -> list[dict[str, Any]]:
    """The log as ``GetQuote`` tells it since 0.5.6.

    Runtime events lose their digests, the others their payloads, but for the marker of the ACPI
    tables.
    """
    entries = entries_with_preimages(log)
    for entry, event in zip(entries, log.events, strict=True):
        if event.event_type == RUNTIME_EVENT_TYPE:
            entry["digest"] = ""
        elif event.event_type != _ACPI_DATA:
            entry["event_payload"] = ""
    return entries


def log_text(entries: list[dict[str, Any]]) -> str:
    """A log's entries as the JSON text of the guest API."""
    return json.dumps(entries, separators=(",", ":"))


def _entry(event: Event) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "imr": event.register,
        "event_type": event.event_type,
        "digest": event.digest.hex(),
        "event": event.name,
        "event_payload": event.payload.hex(),
    }
    if event.version != VERSION_1:
        entry["version"] = event.version
    return entry


def _preimage_v2(event: Event) -> bytes:
    document = {"name": event.name, "payload": event.payload.hex(), "type": event.event_type}
    return json.dumps(document, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def _boot(machine: Machine) -> EventLog:
    acpi_names = iter(("acpi-loader", "acpi-rsdp", "acpi-tables"))
    events = []
    for index, (register, event_type, payload) in enumerate(_FIRMWARE):
        digest = _image_digest(f"rtmr{register}", machine.altered, index)
        name = next(acpi_names) if event_type == _ACPI_DATA else ""
        events.append(Event(register, event_type, digest, name, payload))
    for name, payload in (
        ("system-preparing", b""),
        ("app-id", machine.app_id),
        ("compose-hash", machine.compose_hash),
        ("instance-id", machine.instance_id),
        ("boot-mr-done", b""),
        ("os-image-hash", machine.os_image_hash),
        ("key-provider", machine.key_provider),
        ("storage-fs", b"zfs"),
        ("system-ready", b""),
    ):
        digest = event_digest(RUNTIME_EVENT_TYPE, name, payload, machine.event_version)
        events.append(
            Event(
                RUNTIME_REGISTER, RUNTIME_EVENT_TYPE, digest, name, payload, machine.event_version
            )
        )
    return EventLog(tuple(events))


def _image_digest(measured: str, altered: str, index: int = 0) -> bytes:
    image = IMAGE + " (another)" * (measured == altered)
    return hashlib.sha384(f"{image}: {measured}, {index}".encode()).digest()


@lru_cache(maxsize=256)
def _enclave(pki: TdxPki, platform: Platform) -> QuotingEnclave:
    return QuotingEnclave(pki, platform)
