"""The parts of attestation without a network: policies, quorum rule, quotes, verdicts, set-up."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attested_world import (
    APP_ID,
    KMS_ROOT,
    PKI,
    Agent,
    bundle,
    machine,
    policy,
    row,
    seed_of,
)
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from memory_node import make_config

from attest import Evidence, GuestAgent, RefusalCode, SecretKey, keccak256
from attest.collateral_store import CollateralStore, encode_bundle
from chain import PolicyText
from consensus import wire
from consensus.interface import Received
from consensus.types import BootRequest
from consensus.validators import Validator, ValidatorSet
from deploy.simulator import Faults, serve
from deploy.simulator import Node as SimulatedNode
from deploy.simulator.server import SimulatorConfig
from node.attestation import PolicyBook
from node.attestation.agent import QUOTES_AT_ONCE_MAX, Prover, report_data_of
from node.attestation.codes import NodeCode, reason, word
from node.attestation.fence import BootFence
from node.attestation.judging import Expected, Judge
from node.attestation.quorum import enforcement
from node.attestation.setup import open_attestation, root_of
from node.config import Config, ConfigError
from node.network import NetworkLimits
from node.network.attesting import Statement
from node.network.errors import Unproven
from tests.unit.network.conftest import CLUSTER, node_key, secret_of, wait_until

ALL = policy(1, [machine(1)])
PEER = "16Uiu2HAmUHjdJaY9XGPvEHSYyKzbHrjb7R1mUyDqzRXDgz5FyS6X"


def statement(**changes: Any) -> Statement:
    plain = Statement(
        cluster_id=CLUSTER,
        prover=PEER,
        verifier=PEER,
        prover_nonce=bytes(32),
        verifier_nonce=bytes(32),
        session=bytes(32),
        seat=1,
        incarnation=1,
    )
    return replace(plain, **changes)


# --- which policy ---------------------------------------------------------------------------------


async def test_the_newest_policy_is_in_force_and_survives_a_restart(tmp_path: Path) -> None:
    changes: list[int] = []
    book = PolicyBook(tmp_path / "policy.json")
    book.on_change = lambda: changes.append(book.current.version if book.current else 0)
    assert book.alarms() == []  # a node that starts has not looked yet
    await book.saw(None)
    assert book.current is None and "names no attestation policy" in book.alarms()[0]
    await book.saw(ALL)
    await book.saw(ALL)
    await book.saw(replace(ALL, version=3))
    assert changes == [1, 3] and book.alarms() == []
    again = PolicyBook(tmp_path / "policy.json")
    assert again.remember() == ALL.text
    assert again.current == book.current


async def test_rules_that_take_the_place_of_others_are_followed_from_their_first_policy_on(
    tmp_path: Path,
) -> None:
    book = PolicyBook(tmp_path / "policy.json")
    await book.saw(replace(ALL, version=3))
    await book.saw(None)  # the new rules name none yet: nobody is let in by that
    assert book.current is not None and book.current.version == 3
    (alarm,) = book.alarms()
    assert "names no attestation policy any more: policy 3 stays in force" in alarm
    other = ALL.text.replace(b"{", b"{ ", 1)
    await book.saw(PolicyText(1, keccak256(other), other))
    assert (book.current.version, book.current.digest) == (1, keccak256(other))
    assert book.alarms() == []
    again = PolicyBook(tmp_path / "policy.json")
    assert again.remember() == other


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff\xfe", b"[" * 20_000])
async def test_a_policy_that_cannot_be_read_takes_nobody_and_is_alarmed(
    tmp_path: Path, text: bytes
) -> None:
    book = PolicyBook(tmp_path / "policy.json")
    await book.saw(ALL)
    await book.saw(PolicyText(2, keccak256(text), text))
    assert book.current is not None
    assert (book.current.version, book.current.policy) == (2, None)
    assert len(book.alarms()) == 1
    again = PolicyBook(tmp_path / "policy.json")
    again.remember()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "version": "x", "text": "zz"}'])
def test_a_damaged_memory_of_the_policy_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content)
    book = PolicyBook(tmp_path / "policy.json")
    assert book.remember() == b"" and book.current is None


# --- the quorum rule ------------------------------------------------------------------------------


def validators(weights: dict[int, int]) -> ValidatorSet:
    return ValidatorSet(
        0, tuple(Validator(s, w, node_key(secret_of(s))) for s, w in weights.items()), CLUSTER
    )


FOUR = validators({1: 1, 2: 1, 3: 1, 4: 1})


def test_a_quorum_of_those_that_satisfy_lets_the_others_go() -> None:
    found = enforcement(FOUR, {1, 2, 3}, {4})
    assert (found.cut, found.held, found.alarm()) == ({4}, frozenset(), "")


def test_without_such_a_quorum_voters_are_held_and_others_go() -> None:
    found = enforcement(FOUR, {1, 2}, {3, 9})
    assert (found.cut, found.held) == ({9}, {3})
    assert "seats 3" in found.alarm() and "weigh 2 of 4, a quorum is 3" in found.alarm()


@given(
    st.dictionaries(st.integers(1, 9), st.integers(1, 50), min_size=1, max_size=9),
    st.sets(st.integers(1, 12)),
    st.sets(st.integers(1, 12)),
)
def test_nobody_with_a_vote_is_cut_unless_a_quorum_remains(
    weights: dict[int, int], satisfying: set[int], failing: set[int]
) -> None:
    failing -= satisfying
    found = enforcement(validators(weights), satisfying, failing)
    assert found.cut | found.held == failing and not found.cut & found.held
    left = sum(weights.get(seat, 0) for seat in satisfying)
    if found.cut & weights.keys():
        assert 3 * left > 2 * sum(weights.values())
    if found.held:
        assert 3 * left <= 2 * sum(weights.values()) and found.held <= weights.keys()


# --- quotes of this machine -----------------------------------------------------------------------


async def test_few_quotes_are_made_at_once(nursery: trio.Nursery) -> None:
    agent = Agent(1)
    agent.hold = trio.Event()
    prover = Prover(agent, CollateralStore([]), 1 << 20)
    for _ in range(10):
        nursery.start_soon(prover.prove, statement())
    await wait_until(lambda: agent.asked == QUOTES_AT_ONCE_MAX)
    await trio.testing.wait_all_tasks_blocked()
    assert agent.asked == QUOTES_AT_ONCE_MAX
    agent.hold.set()
    await wait_until(lambda: prover.made == 10)


async def test_an_agent_that_fails_is_told_and_forgotten_with_the_next_quote() -> None:
    agent = Agent(1)
    prover = Prover(agent, CollateralStore([], bundle=bundle()), 1 << 20)
    agent.is_down = True
    with pytest.raises(Unproven, match="nobody listens") as told:
        await prover.prove(statement())
    assert told.value.code == NodeCode.NO_QUOTE and prover.trouble
    agent.is_down = False
    raw = await prover.prove(statement())
    assert prover.trouble == "" and Evidence.decode(raw).collateral is not None


async def test_evidence_that_the_mesh_would_not_carry_leaves_the_collateral_out() -> None:
    agent = Agent(1)
    store = CollateralStore([], bundle=bundle())
    whole = await Prover(agent, store, 1 << 20).prove(statement())
    less = await Prover(agent, store, len(whole) - 1).prove(statement())
    assert Evidence.decode(less).collateral is None
    with pytest.raises(Unproven):
        await Prover(agent, store, len(less) - 1).prove(statement())


def test_the_statement_is_what_the_report_data_is_made_of() -> None:
    plain = report_data_of(statement())
    for change in (
        {"cluster_id": b"\1" * 32},
        {"prover_nonce": b"\1" * 32},
        {"verifier_nonce": b"\1" * 32},
        {"session": b"\1" * 32},
        {"seat": 2},
        {"incarnation": 2},
    ):
        assert report_data_of(statement(**change)) != plain


# --- verdicts -------------------------------------------------------------------------------------


async def judged(judge: Judge, raw: bytes, book: PolicyBook, **changes: Any) -> Any:
    expected = Expected(report_data_of(statement()), APP_ID, row(1).instance_id)
    return await judge.judge(raw, replace(expected, **changes), book.current)


async def test_a_verdict_is_used_again_only_for_the_very_same_question(tmp_path: Path) -> None:
    store = CollateralStore([], bundle=bundle())
    judge = Judge(store, root_ca_der=PKI.root_der)
    book = PolicyBook(tmp_path / "policy.json")
    await book.saw(ALL)
    raw = await Prover(Agent(1), store, 1 << 20).prove(statement())
    for _ in range(3):
        assert (await judged(judge, raw, book)).refusal is None
    assert judge.verified == 1
    other = await judged(judge, raw, book, report_data=bytes(64))
    assert other.refusal is RefusalCode.REPORT_DATA
    other = await judged(judge, raw, book, instance_id=bytes(20))
    assert other.refusal is RefusalCode.INSTANCE_ID
    await book.saw(policy(2, [machine(1, Faults(compose="another"))]))
    assert (await judged(judge, raw, book)).refusal is RefusalCode.COMPOSE_HASH
    assert judge.verified == 4
    # What was refused is looked at again: dates and collateral may have changed.
    assert (await judged(judge, raw, book)).refusal is RefusalCode.COMPOSE_HASH
    assert judge.verified == 5


@pytest.mark.parametrize("raw", [b"", b"\xc1", os.urandom(300), Evidence(b"x", b"y").encode()])
async def test_evidence_that_is_none_is_refused_and_not_a_crash(tmp_path: Path, raw: bytes) -> None:
    book = PolicyBook(tmp_path / "policy.json")
    await book.saw(ALL)
    found = await judged(Judge(CollateralStore([]), root_ca_der=None), raw, book)
    assert found.refusal in (RefusalCode.BAD_EVIDENCE, RefusalCode.BAD_QUOTE)


async def test_intels_root_takes_no_simulated_machine(tmp_path: Path) -> None:
    store = CollateralStore([], bundle=bundle())
    book = PolicyBook(tmp_path / "policy.json")
    await book.saw(ALL)
    raw = await Prover(Agent(1), store, 1 << 20).prove(statement())
    found = await judged(Judge(store, root_ca_der=None), raw, book)
    assert found.refusal is RefusalCode.QUOTE_SIGNATURE


def test_codes_have_words_also_those_that_nobody_knows() -> None:
    assert word(RefusalCode.COMPOSE_HASH) == "compose_hash"
    assert reason(NodeCode.NO_QUOTE) == "attestation_no_quote"
    assert word(77) == "code_77"
    assert not {int(c) for c in NodeCode} & {int(c) for c in RefusalCode}


# --- boots ----------------------------------------------------------------------------------------


class _Driver:
    """What the fence asks of a driver."""

    def __init__(self) -> None:
        self.engine: Any = self
        self.boot: Any = self
        self.incarnation = 4
        self.known: dict[int, BootRequest] = {}
        self.newest = 0
        self.told: list[Any] = []

    def current(self, seat: int) -> int:
        return self.newest

    def tell(self, event: Any) -> None:
        self.told.append(event)


def test_a_superseded_copy_gets_the_request_that_superseded_it() -> None:
    driver = _Driver()
    fence = BootFence(driver, CLUSTER)  # type: ignore[arg-type]
    assert (fence.incarnation(), fence.current(2), fence.proof(2)) == (4, 0, b"")
    request = BootRequest(2, 7, b"b" * 32, b"s" * 65)
    driver.known[2], driver.newest = request, 7
    proof = fence.proof(2)
    assert 0 < len(proof) <= 1024
    fence.superseded(3, proof)
    assert driver.told == [Received(3, wire.BootRefused(request))]
    # Known from a certificate alone: there is no request to show.
    driver.newest = 8
    assert fence.proof(2) == b""
    for nonsense in (b"", b"\xc1", wire.encode(request)):
        fence.superseded(3, nonsense)
    assert len(driver.told) == 1


# --- the whole of it, from configuration, agent socket and PCCS -----------------------------------


def checking(tmp_path: Path, **attestation: Any) -> Config:
    (tmp_path / "state").mkdir(exist_ok=True)
    return make_config(
        tmp_path,
        attestation=attestation,
        insecure={"no_attestation": False, "external_tdx_root": "tdx_root_file" in attestation},
    )


offered: list[bytes] = []


async def opened(config: Config, agent: Any) -> Any:
    identity: Any = type("Identity", (), {"app_id": APP_ID})()
    return await open_attestation(
        config,
        agent,
        identity,
        cluster_id=CLUSTER,
        row_of=row,
        limits=NetworkLimits(),
        offer=offered.append,
        on_change=lambda: None,
    )


async def test_a_real_agent_and_a_pccs_give_evidence_that_is_accepted(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    socket = str(tmp_path / "a.sock")
    config = SimulatorConfig(
        SecretKey(KMS_ROOT), APP_ID, (SimulatedNode(socket, seed_of(1)),), pccs_port=0
    )
    serving = await nursery.start(serve, config)
    (tmp_path / "root.der").write_bytes(serving.tdx_root)
    found = await opened(
        checking(tmp_path, pccs_urls=[serving.pccs_url], tdx_root_file="root.der"),
        GuestAgent(socket),
    )
    await found.policies.saw(ALL)
    store: CollateralStore = found._collateral
    raw = await found.prove(statement())
    judgement = await judged(found.judge_, raw, found.policies)
    assert judgement.refusal is None and judgement.tcb_status == "UpToDate"
    # Fetched once, kept on disk, and shown along from now on.
    assert list((tmp_path / "state" / "collateral").iterdir())
    assert store.peek(found.prover.platform) is not None
    assert Evidence.decode(await found.prove(statement())).collateral is not None


async def test_a_bundle_serves_where_no_source_is(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(encode_bundle(bundle()))
    pem = x509.load_der_x509_certificate(PKI.root_der).public_bytes(Encoding.PEM)
    (tmp_path / "root.pem").write_bytes(pem)
    found = await opened(
        checking(tmp_path, collateral_bundle="bundle.json", tdx_root_file="root.pem"), Agent(1)
    )
    await found.policies.saw(ALL)
    judgement = await judged(found.judge_, await found.prove(statement()), found.policies)
    assert judgement.refusal is None


async def test_texts_of_policies_from_memory_and_file_are_offered_to_the_chain(
    tmp_path: Path,
) -> None:
    config = checking(tmp_path, policy_file="policy.txt")
    await PolicyBook(config.node.state_dir / "policy.json").saw(ALL)
    (tmp_path / "policy.txt").write_bytes(b"another text")
    offered.clear()
    found = await opened(config, Agent(1))
    assert offered == [b"another text", ALL.text]
    assert found.policies.current.version == 1
    (tmp_path / "policy.txt").unlink()
    with pytest.raises(ConfigError, match=r"attestation\.policy_file"):
        await opened(config, Agent(1))


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"x" * 20_000])
async def test_a_root_file_that_is_none_ends_the_start_with_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "root.der"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"attestation\.tdx_root_file: .*root\.der"):
        root_of(path)
    assert root_of(None) is None


async def test_a_bundle_that_is_none_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"attestation\.collateral_bundle: .*bundle\.json"):
        await opened(checking(tmp_path, collateral_bundle="bundle.json"), Agent(1))
