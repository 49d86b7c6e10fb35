"""One agent's source of evidence: a machine, and the faults that it has at the moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from .container import attestation
from .faults import NO_FAULTS, Faults
from .kms import instance_id
from .machine import Machine, full_entries, log_text, make_machine, stripped_entries
from .tdx_pki import TdxPki
from .tdx_quote import REPORT_DATA_BYTES


class NoQuotes(Exception):
    """This machine gives no quotes at the moment; the text is for the agent's client."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What ``GetQuote`` answers: the quote, the log as JSON text, what was asked for."""

    quote: bytes
    event_log: str
    report_data: bytes
    vm_config: str


class Attester:
    """Makes the evidence of the machine with this 20-byte seed.

    ``kms_root`` 32 bytes, of which the testnet's PKI grows; ``faults`` is asked at every call.
    """

    def __init__(
        self,
        kms_root: bytes,
        *,
        seed: bytes,
        app_id: bytes,
        app_compose: str,
        faults: Callable[[], Faults] = lambda: NO_FAULTS,
    ) -> None:
        self._kms_root = kms_root
        self._pki = TdxPki.of_kms_root(kms_root)
        self._app_id = app_id
        self._app_compose = app_compose
        self._faults = faults
        self._sound = self._machine(seed)
        self._first_report_data = _another_session(seed)
        self._has_quoted = False

    def machine(self) -> Machine:
        """The machine as it is now, faults included."""
        faults = self._faults()
        machine = faults.applied_to(self._sound)
        if faults.clone_of:
            # The seed lies in a folder that the host shares, and gives the instance its id; the
            # hardware stays what it is.
            seed = bytes.fromhex(faults.clone_of)
            machine = replace(machine, instance_id=instance_id(seed, self._app_id))
        return machine

    def evidence(self, report_data: bytes, *, full_log: bool = False) -> Evidence:
        """Evidence over 64 bytes of the caller's, its log stripped or whole. Raises NoQuotes."""
        machine, attested = self._attesting(report_data)
        log = machine.event_log()
        return Evidence(
            quote=machine.quote(attested),
            event_log=log_text(full_entries(log) if full_log else stripped_entries(log)),
            report_data=report_data,
            vm_config=machine.vm_config,
        )

    def container(self, report_data: bytes) -> bytes:
        """The same as one attestation container. Raises NoQuotes."""
        return attestation(*self._attesting(report_data))

    def _attesting(self, report_data: bytes) -> tuple[Machine, bytes]:
        """Which machine quotes, and what it quotes over."""
        assert len(report_data) == REPORT_DATA_BYTES
        faults = self._faults()
        if faults.has_no_quotes:
            raise NoQuotes("the quoting enclave does not answer")
        if not self._has_quoted and not faults.replays:
            self._has_quoted, self._first_report_data = True, report_data
        if faults.quote_of:
            other = bytes.fromhex(faults.quote_of)
            return self._machine(other), _another_session(other)
        if faults.replays:
            return self.machine(), self._first_report_data
        if faults.wrong_report_data:
            return self.machine(), hashlib.sha512(report_data).digest()
        return self.machine(), report_data

    def _machine(self, seed: bytes) -> Machine:
        return make_machine(
            self._pki,
            seed=seed,
            app_id=self._app_id,
            instance_id=instance_id(seed, self._app_id),
            app_compose=self._app_compose,
            kms_root=self._kms_root,
        )


def _another_session(seed: bytes) -> bytes:
    return hashlib.sha512(b"report data of another session:" + seed).digest()
