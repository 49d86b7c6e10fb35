"""``dstack-cluster attest``: for whoever wants to check a machine himself, without any cluster.

``verify`` prints every check of the verdict, passed or not, and what was learned on the way. Exit
status 0 means that all passed, under Intel's root unless another was named.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.cli_talk import Failed, print_json
from node.cli_verdict import facts_document, print_lines, print_verdict, verdict_document

if TYPE_CHECKING:
    from attest import Collateral, Policy
    from attest.qvl import Platform
    from attest.shown import Shown

T = TypeVar("T")


def add_attest(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    attest = commands.add_parser("attest", help="check a machine's quote; fetch collateral; policy")
    verbs = attest.add_subparsers(title="verbs", metavar="VERB", required=True)

    ask = verbs.add_parser("quote", help="ask this machine's guest agent for evidence")
    ask.add_argument("--out", required=True, metavar="FILE", help="the container to write")
    ask.add_argument("--socket", metavar="PATH", help="the agent's, where it is not in its place")
    ask.add_argument(
        "--report-data", metavar="HEX", help="64 bytes to quote over; 32 random ones by default"
    )
    _end(ask, _quote)

    show = verbs.add_parser("show", help="what evidence says, nothing of it checked")
    _evidence(show)
    _end(show, _show)

    verify = verbs.add_parser(
        "verify", help="check evidence; exit status 1 when refused, with every check printed"
    )
    _evidence(verify)
    verify.add_argument("--policy", metavar="FILE", help="without one, nobody is accepted")
    verify.add_argument("--collateral", metavar="FILE", help="a bundle of fetch-collateral")
    _sources(verify)
    verify.add_argument(
        "--at", metavar="TIME", help="judge as of this time: unix seconds or ISO 8601 with zone"
    )
    verify.add_argument("--report-data", metavar="HEX", help="the 64 bytes that the quote is over")
    verify.add_argument("--app-id", metavar="HEX")
    verify.add_argument("--instance-id", metavar="HEX")
    verify.add_argument(
        "--insecure-root-ca", metavar="FILE", help="a root in DER or PEM instead of Intel's"
    )
    _end(verify, _verify)

    fetch = verbs.add_parser(
        "fetch-collateral", help="collateral for a machine's platform family, for offline use"
    )
    fetch.add_argument("file", nargs="?", metavar="FILE", help="evidence that names the family")
    fetch.add_argument("--fmspc", metavar="HEX", help="the family, where there is no evidence")
    fetch.add_argument("--ca", choices=("platform", "processor"), default="platform")
    fetch.add_argument("--out", required=True, metavar="FILE", help="the bundle to write")
    _sources(fetch)
    _end(fetch, _fetch)

    policy = verbs.add_parser("policy", help="policy documents")
    steps = policy.add_subparsers(title="steps", metavar="STEP", required=True)
    check = steps.add_parser("show", help="read a document strictly; print it and its digest")
    check.add_argument("file", metavar="FILE")
    _end(check, _policy_show)
    draft = steps.add_parser(
        "draft", help="the document that takes exactly the machines of this evidence"
    )
    draft.add_argument("files", nargs="+", metavar="FILE", help="evidence, not checked here")
    draft.set_defaults(command=_policy_draft)


def _evidence(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "file",
        metavar="FILE",
        help="evidence: container, agent's JSON answer, RA-TLS certificate, or a bare quote",
    )
    verb.add_argument("--event-log", metavar="FILE", help="for a bare quote: the agent's JSON text")


def _sources(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--pccs",
        action="append",
        default=[],
        metavar="URL",
        help="where collateral is fetched, in order (https, without path; Intel's own is "
        "https://api.trustedservices.intel.com)",
    )


def _end(verb: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(command=command)


# --- what comes in ---


def read_bounded(name: str, bytes_max: int) -> bytes:
    """A file that somebody gave us. Raises Failed."""
    try:
        with open(name, "rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise Failed(f"{name}: {error.strerror}") from None
    if len(raw) > bytes_max:
        raise Failed(f"{name}: longer than {bytes_max} bytes")
    return raw


def hex_option(text: str | None, name: str, size: int) -> bytes | None:
    """The bytes of an option; None when it was not given. Raises Failed."""
    if text is None:
        return None
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != size:
        raise Failed(f"{name}: expected hex of {size} bytes")
    return value


def _parsed(name: str, parse: Callable[[], T]) -> T:
    from attest import AttestError

    try:
        return parse()
    except AttestError as error:
        raise Failed(f"{name}: {error}") from None


def _shown(name: str, event_log: str | None = None) -> Shown:
    from attest import Evidence
    from attest.event_log import EVENT_LOG_BYTES_MAX
    from attest.shown import SHOWN_BYTES_MAX, Shown, read_shown

    raw = read_bounded(name, SHOWN_BYTES_MAX)
    shown = _parsed(name, lambda: read_shown(raw))
    if event_log is not None:
        log = read_bounded(event_log, EVENT_LOG_BYTES_MAX)
        evidence = Evidence(shown.evidence.quote, log, shown.evidence.collateral)
        shown = Shown(evidence, shown.kind, shown.report_data)
    return shown


def _time_s(text: str | None) -> int:
    if text is None:
        return int(time.time())
    try:
        if text.isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise Failed("--at: expected unix seconds or a date with time zone") from None


def _policy(name: str | None) -> Policy | None:
    from attest import parse_policy
    from attest.policy import POLICY_BYTES_MAX

    if name is None:
        return None
    text = read_bounded(name, POLICY_BYTES_MAX)
    return _parsed(name, lambda: parse_policy(text))


def _root(name: str | None) -> bytes | None:
    if name is None:
        return None
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    raw = read_bounded(name, 16 * 1024)
    try:
        pem = raw.lstrip().startswith(b"-----BEGIN")
        load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
        return load(raw).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion):
        raise Failed(f"{name}: not a certificate in DER or PEM") from None


def _platform(shown: Shown) -> Platform:
    from attest.qvl import platform_of

    return _parsed("the quote names no platform", lambda: platform_of(shown.evidence.quote))


def _collateral(options: argparse.Namespace, shown: Shown, now_s: int) -> Collateral | None:
    """From the file, else from the sources, else None: what the evidence carries serves."""
    from attest import parse_collateral
    from attest.collateral_store import BUNDLE_BYTES_MAX, parse_bundle
    from attest.errors import CollateralError

    if options.collateral is not None:
        raw = read_bounded(options.collateral, BUNDLE_BYTES_MAX)
        try:
            return parse_collateral(raw)
        except CollateralError:
            entries = _parsed(options.collateral, lambda: parse_bundle(raw))
        return dict(entries).get(_platform(shown))
    if options.pccs:
        return _fetched(options.pccs, _platform(shown))
    return None


def _fetched(urls: list[str], platform: Platform) -> Collateral:
    import trio

    from attest import CollateralUnavailable
    from attest.pccs import CollateralSource

    failures = []
    for url in urls:
        try:
            return trio.run(CollateralSource(url).fetch, platform)
        except ValueError as error:
            raise Failed(f"--pccs: {error}") from None
        except CollateralUnavailable as error:
            failures.append(str(error))
    raise Failed("; ".join(failures))


# --- verbs ---


def _quote(options: argparse.Namespace) -> int:
    import trio

    from attest import AttestError, Evidence, GuestAgent

    given = hex_option(options.report_data, "--report-data", 64)
    report_data = secrets.token_bytes(32).ljust(64, b"\0") if given is None else given
    try:
        quote, event_log = trio.run(GuestAgent(options.socket).get_quote, report_data)
        container = Evidence(quote, event_log).encode()
    except AttestError as error:
        raise Failed(str(error)) from None
    _write(options.out, container)
    document = {"file": options.out, "report_data": report_data.hex()}
    print_json(document) if options.json else print_lines(document)
    return 0


def _write(name: str, content: bytes) -> None:
    from attest.durable import replace_file

    try:
        replace_file(Path(name), content)
    except OSError as error:
        raise Failed(f"{name}: {error.strerror}") from None


def _show(options: argparse.Namespace) -> int:
    from attest import AttestError, parse_event_log, parse_quote, replay, runtime_facts
    from attest.verifying import Facts

    shown = _shown(options.file, options.event_log)
    quote = _parsed(options.file, lambda: parse_quote(shown.evidence.quote))
    document: dict[str, Any] = {"kind": shown.kind, "proven": "nothing: see attest verify"}
    document |= facts_document(Facts(quote=quote))
    try:
        log = parse_event_log(shown.evidence.event_log)
        document["replay"] = {
            f"rtmr{index}": "left out" if log.is_partial(index) else value == quote.rtmrs[index]
            for index, value in enumerate(replay(log))
        }
        document |= facts_document(Facts(runtime=runtime_facts(log)))
    except AttestError as error:
        document["event_log"] = str(error)
    print_json(document) if options.json else print_lines(document)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from attest.verifying import verify_evidence

    now_s = _time_s(options.at)
    shown = _shown(options.file, options.event_log)
    expected = hex_option(options.report_data, "--report-data", 64)
    verdict = verify_evidence(
        shown.evidence,
        report_data=shown.report_data if expected is None else expected,
        app_id=hex_option(options.app_id, "--app-id", 20),
        instance_id=hex_option(options.instance_id, "--instance-id", 20),
        policy=_policy(options.policy),
        collateral=_collateral(options, shown, now_s),
        now_s=now_s,
        root_ca_der=_root(options.insecure_root_ca),
    )
    if options.json:
        print_json(verdict_document(verdict, shown.kind, now_s))
    else:
        print_verdict(verdict, shown.kind)
    return 0 if verdict.accepted else 1


def _fetch(options: argparse.Namespace) -> int:
    from attest.collateral import iso_date
    from attest.collateral_store import encode_bundle
    from attest.qvl import Platform

    if (options.file is None) == (options.fmspc is None):
        raise Failed("give either evidence or --fmspc")
    if options.file is not None:
        platform = _platform(_shown(options.file))
    else:
        platform = Platform(hex_option(options.fmspc, "--fmspc", 6) or b"", options.ca)
    if not options.pccs:
        raise Failed("--pccs: name at least one source")
    collateral = _fetched(options.pccs, platform)
    _write(options.out, encode_bundle([(platform, collateral)]))
    document = {
        "fmspc": platform.fmspc.hex(),
        "ca": platform.ca,
        "issued": iso_date(collateral.issued_s),
        "valid_until": iso_date(collateral.valid_until_s),
        "file": options.out,
    }
    print_json(document) if options.json else print_lines(document)
    return 0


def _policy_show(options: argparse.Namespace) -> int:
    from attest import parse_policy, policy_digest
    from attest.policy import POLICY_BYTES_MAX

    text = read_bounded(options.file, POLICY_BYTES_MAX)
    _parsed(options.file, lambda: parse_policy(text))
    document = {"digest": "0x" + policy_digest(text).hex(), "policy": json.loads(text)}
    if options.json:
        print_json(document)
    else:
        print(f"digest {document['digest']}")
        print(json.dumps(document["policy"], indent=2))
    return 0


def _policy_draft(options: argparse.Namespace) -> int:
    from attest.policy_draft import draft_policy

    evidence = [_shown(name).evidence for name in options.files]
    print(_parsed("evidence", lambda: draft_policy(evidence)).decode())
    return 0
