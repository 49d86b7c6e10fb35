"""The guest agent's methods as the simulator answers them: one request in, one answer out, no I/O.

Surfaces: v0 at ``/<Method>`` (and ``/v0/<Method>`` where v1 exists), v1 at ``/v1/<Method>``. The
simulator is no TDX machine: its quotes verify under the testnet's mock authority and no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .attester import Attester, NoQuotes
from .http_server import PLAIN, Reply
from .kms import AppKeys, DerivedKey, UnsupportedAlgorithm, get_key_v0, get_key_v1
from .machine import Machine, full_entries
from .tdx_quote import REPORT_DATA_BYTES

VERSION_WITH_V1 = "0.6.0"
VERSION_WITHOUT_V1 = "0.5.11"
VERSION_OLD = "0.5.5"
REVISION = "simulator"
TEXT_CHARS_MAX = 4096

DEFAULT_APP_NAME = "dstack-cluster-testnet"
DEFAULT_APP_COMPOSE = json.dumps(
    {
        "manifest_version": 2,
        "name": DEFAULT_APP_NAME,
        "runner": "docker-compose",
        "docker_compose_file": "",
        "kms_enabled": True,
        "gateway_enabled": False,
    },
    separators=(",", ":"),
)


class MethodError(Exception):
    """The method failed; the text is the agent's answer, with status 400."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One simulated guest agent: an instance of the app that ``keys`` belong to.

    ``is_old``: as before 0.5.6. Then there is no v1 and some of v0 is missing, ``GetKey`` ignores
    the algorithm that it was asked for, and ``GetQuote`` tells the full event log.
    """

    keys: AppKeys
    attester: Attester
    app_name: str = DEFAULT_APP_NAME
    serves_v0: bool = True
    serves_v1: bool = True
    is_old: bool = False

    @property
    def version(self) -> str:
        """The release whose API surfaces this agent shows."""
        if self.is_old:
            return VERSION_OLD
        return VERSION_WITH_V1 if self.serves_v1 else VERSION_WITHOUT_V1


Method = Callable[[Agent, Mapping[str, Any]], dict[str, Any]]


def error_reply(status: int, text: str) -> Reply:
    """The agent's error shape."""
    return Reply(status, json.dumps({"error": text}).encode())


def not_mounted() -> Reply:
    """What the web framework says where no RPC surface is: plain text, not JSON."""
    return Reply(404, b"404 Not Found\n", PLAIN)


def is_mounted(agent: Agent, path: str) -> bool:
    """Whether an RPC surface answers at ``path``, with whatever result."""
    return _surface(agent, path) is not None


def answer(agent: Agent, path: str, request: Mapping[str, Any]) -> Reply:
    """Answer one call; ``path`` is the URL path, ``request`` its fields (unknown ones ignored)."""
    surface = _surface(agent, path)
    if surface is None:
        return not_mounted()
    methods, name = surface
    method = methods.get(name)
    if method is None:
        return error_reply(404, f"Service not found: {name}")
    try:
        return Reply(200, json.dumps(method(agent, request)).encode())
    except (MethodError, NoQuotes) as error:
        return error_reply(400, str(error))


def _surface(agent: Agent, path: str) -> tuple[Mapping[str, Method], str] | None:
    parts = path.removeprefix("/").split("/")
    if len(parts) == 1 and parts[0] and agent.serves_v0:
        return (_V0_OLD if agent.is_old else _V0), parts[0]
    if agent.is_old:
        return None
    if len(parts) == 2 and parts[1] and agent.serves_v1:
        if parts[0] == "v1":
            return _V1, parts[1]
        # The explicit name of the frozen API came together with v1.
        if parts[0] == "v0" and agent.serves_v0:
            return _V0, parts[1]
    return None


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name, "")
    if not isinstance(value, str):
        raise MethodError(f"field {name}: expected a string")
    if len(value) > TEXT_CHARS_MAX:
        raise MethodError(f"field {name}: at most {TEXT_CHARS_MAX} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MethodError(f"field {name}: not valid Unicode") from None
    return value


def _get_key_v0(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        key = get_key_v0(
            agent.keys,
            _text(request, "path"),
            _text(request, "purpose"),
            "" if agent.is_old else _text(request, "algorithm"),
        )
    except UnsupportedAlgorithm as error:
        raise MethodError(str(error)) from None
    return _key_reply(key)


def _get_key_v1(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        key = get_key_v1(agent.keys, _text(request, "domain"), _text(request, "algorithm"))
    except UnsupportedAlgorithm as error:
        raise MethodError(str(error)) from None
    return {**_key_reply(key), "public_key": key.public_key.hex()}


def _key_reply(key: DerivedKey) -> dict[str, Any]:
    return {
        "key": key.key.hex(),
        "signature_chain": [signature.hex() for signature in key.signature_chain],
    }


def _report_data(request: Mapping[str, Any]) -> bytes:
    text = _text(request, "report_data").removeprefix("0x")
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise MethodError("field report_data: not hex") from None
    if len(raw) > REPORT_DATA_BYTES:
        raise MethodError("Report data is too long")
    return raw.ljust(REPORT_DATA_BYTES, b"\0")


def _get_quote(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    evidence = agent.attester.evidence(_report_data(request), full_log=agent.is_old)
    return {
        "quote": evidence.quote.hex(),
        "event_log": evidence.event_log,
        "report_data": evidence.report_data.hex(),
        "vm_config": evidence.vm_config,
        "attestation": "",
    }


def _attest_v0(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    return {"attestation": agent.attester.container(_report_data(request)).hex()}


def _attest_v1(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    # No GPU: there is no evidence of one, whether it was asked for or not.
    return {**_attest_v0(agent, request), "boottime_gpu_evidence": []}


def _names(agent: Agent, machine: Machine) -> dict[str, Any]:
    return {
        "app_id": machine.app_id.hex(),
        "instance_id": machine.instance_id.hex(),
        "app_name": agent.app_name,
        "device_id": machine.device_id.hex(),
        "mr_aggregated": machine.mr_aggregated.hex(),
        "os_image_hash": machine.os_image_hash.hex(),
        "key_provider_info": machine.key_provider.decode(),
        "compose_hash": machine.compose_hash.hex(),
        "vm_config": machine.vm_config,
        "cloud_vendor": "",
        "cloud_product": "",
    }


def _info_v0(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    machine = agent.attester.machine()
    names = _names(agent, machine)
    report = machine.report(bytes(REPORT_DATA_BYTES))
    repeated = ("mr_aggregated", "os_image_hash", "compose_hash", "device_id")
    tcb_info = {
        "mrtd": report.mr_td.hex(),
        **{f"rtmr{index}": rtmr.hex() for index, rtmr in enumerate(report.rtmrs)},
        **{name: names[name] for name in repeated},
        "event_log": full_entries(machine.event_log()),
        "app_compose": machine.app_compose,
    }
    return {**names, "app_cert": "", "tcb_info": json.dumps(tcb_info, indent=2)}


def _info_v1(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    machine = agent.attester.machine()
    return {**_names(agent, machine), "app_compose": machine.app_compose}


def _version(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": agent.version, "rev": REVISION}


def _health(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _refuse(text: str) -> Method:
    def method(agent: Agent, request: Mapping[str, Any]) -> dict[str, Any]:
        raise MethodError(text)

    return method


_NOT_OFFERED = _refuse("this simulator does not offer the method")

_V0: Mapping[str, Method] = {
    "GetKey": _get_key_v0,
    "Info": _info_v0,
    "Version": _version,
    "GetQuote": _get_quote,
    "Attest": _attest_v0,
    "EmitEvent": _refuse("RTMR3 is owned by the system; events can no longer be emitted"),
    "GetTlsKey": _NOT_OFFERED,
    "Sign": _NOT_OFFERED,
    "Verify": _NOT_OFFERED,
}

_V0_OLD: Mapping[str, Method] = {
    name: _V0[name] for name in ("GetKey", "Info", "GetQuote", "GetTlsKey")
}

_V1: Mapping[str, Method] = {
    "GetKey": _get_key_v1,
    "Info": _info_v1,
    "Version": _version,
    "Health": _health,
    "Attest": _attest_v1,
    "AttestGpu": _refuse("no GPU is attached"),
    "IssueCert": _NOT_OFFERED,
}
