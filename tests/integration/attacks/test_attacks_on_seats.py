"""E08 to E10, E14 to E16, E19 to E21 and E25: seats, money, boots, readers, and the root itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import pytest
import trio

from attest import PUBLIC_TEST_ROOTS
from chain import CallReverted
from chain.decoding import Log, logs
from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Change
from chain.replay import Replay, Seats, node_change
from deploy import operator
from tests.integration.anvil_chain import CHAIN_ID, KMS, address
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.founding import flawed_contract, our_contracts
from tests.integration.attacks.proofs import key, point
from tests.integration.attacks.target import (
    ABIS,
    ALICE,
    BOB,
    CAROL,
    GUARDIAN,
    MAX_SEATS,
    OWNER,
    STRANGER,
    Target,
    hexed,
    wallet,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

EVIL = "/ip4/203.0.113.66/tcp/1"
ETHER = 10**18


async def test_E08_a_seat_pushed_at_a_member_costs_her_nothing(target: Target) -> None:
    await target.enlist(1, "alice")
    push = (BOB, "transferFrom", wallet(BOB), wallet(ALICE), 2)
    if target.sound:
        await target.attack(*push, refusal="SeatLocked")
    await target.do(OWNER, "setTransfersAllowed", True)
    await target.attack(*push, refusal="WalletHasSeat")
    hers = not await target.defend(ALICE, "deactivate", 1)
    target.harm(hers)
    if target.sound:
        for function in ("transferFrom", "safeTransferFrom"):
            data = transfer(function, BOB, ALICE, 2)
            await target.attack_raw(BOB, data, refusal="WalletHasSeat")
        await target.attack_raw(BOB, transfer("transferFrom", BOB, BOB, 2), refusal="WalletHasSeat")
        await target.attack_raw(
            STRANGER, transfer("transferFrom", BOB, STRANGER, 2),
            refusal="ERC721InsufficientApproval",
        )  # fmt: skip
        await target.do(BOB, "transferFrom", wallet(BOB), wallet(STRANGER), 2)


def transfer(function: str, giver: Any, taker: Any, seat: int) -> bytes:
    words = (giver.address, taker.address, seat.to_bytes(32, "big"))
    selector = keccak256(f"{function}(address,address,uint256)".encode())[:4]
    return selector + b"".join(word.rjust(32, b"\0") for word in words)


async def test_E09_no_wallet_holds_two_seats_and_so_loses_both_with_one(target: Target) -> None:
    await target.do(OWNER, "setTransfersAllowed", True)
    await target.attack(OWNER, "grantSeat", wallet(BOB), 1, refusal="WalletHasSeat")
    # Where he has two, he gives one away and is no member any more with the other.
    await target.do(BOB, "transferFrom", wallet(BOB), wallet(STRANGER), 2)
    owns = not target.sound and await target.view("ownerOf", 5) == wallet(BOB)
    target.harm(owns and not await target.defend(BOB, "bindInstance", 5, b"\1" * 20))
    assert await target.view("ownerOf", 2) == wallet(STRANGER)
    await target.do(STRANGER, "bindInstance", 2, b"\2" * 20)


async def test_E10_a_sold_seat_comes_without_the_sellers_node(target: Target) -> None:
    sold = await target.enlist(1, "alice")
    await target.sell(ALICE, STRANGER, 1)
    until_s = await target.now() + 3600
    edited = sold.announcement(2, EVIL, until_s)
    await target.attack(ALICE, "announce", *edited, refusal="NoNode")
    target.harm(await target.endpoint(1) == EVIL)
    if target.sound:
        again = (await target.proof(1, "alice", incarnation=2)).call
        await target.attack(ALICE, "register", *again, refusal="NotAuthorized")
        await target.attack(ALICE, "deactivate", 1, refusal="NotSeatOwner")
        assert await target.view("boundInstance", 1) == bytes(20)
        # The buyer goes on above the seller's number, and the seller's machine is free elsewhere.
        old = (await target.proof(1, "stranger")).call
        await target.attack(STRANGER, "register", *old, refusal="BadIncarnation(1)")
        await target.enlist(1, "stranger", STRANGER, incarnation=2)
        await target.enlist(2, "alice", node=key("what her machine derives for seat 2"))


async def test_E14_nobody_takes_the_seats_by_taking_them(target: Target) -> None:
    taken = 0
    buy = (STRANGER, "mintNodeAccess")
    await target.attack(*buy, at="mint", refusal="Closed")
    taken += not target.sound
    # Open as it was meant to be: the first is his, no second one.
    if target.sound:
        await target.do(OWNER, "setMinter", hexed(target.at["mint"]), 1)
    await target.do(OWNER, "setClusterConfig", 0, MAX_SEATS, 1, True, at="mint")
    await target.do(*buy, at="mint")
    for _ in range(4):
        await target.attack(*buy, at="mint", refusal="OnePerWallet")
        taken += not target.sound
    target.harm(taken > 1)
    if target.sound:
        # Nor by passing it on first; nor beyond cap, weight or the registry's own bound.
        await target.do(OWNER, "setTransfersAllowed", True)
        other = key("his other wallet")
        to = "0x" + address(other).hex()
        await target.do(STRANGER, "transferFrom", wallet(STRANGER), to, 5)
        await target.attack(*buy, at="mint", refusal="OnePerWallet")
        await target.do(OWNER, "setClusterConfig", 0, 1, 1, True, at="mint")
        await target.attack(GUARDIAN, "mintNodeAccess", at="mint", refusal="SoldOut")
        await target.do(OWNER, "setClusterConfig", 0, MAX_SEATS, 2, True, at="mint")
        await target.attack(GUARDIAN, "mintNodeAccess", at="mint", refusal="NotMinter")
        await target.attack(STRANGER, "grantSeat", wallet(STRANGER), 1, refusal="NotMinter")
        for number in range(5, MAX_SEATS):
            await target.do(OWNER, "grantSeat", "0x" + number.to_bytes(20, "big").hex(), 1)
        await target.attack(OWNER, "grantSeat", wallet(STRANGER), 1, refusal="TooManySeats")


async def test_E15_what_is_paid_too_much_comes_back_and_the_rest_can_be_taken_out(
    target: Target,
) -> None:
    if target.sound:
        await target.do(OWNER, "setMinter", hexed(target.at["mint"]), 1)
    await target.do(OWNER, "setClusterConfig", ETHER, MAX_SEATS, 1, True, at="mint")
    await target.do(STRANGER, "mintNodeAccess", at="mint", value_wei=5 * ETHER)
    kept = await target.balance(target.at["mint"])
    await target.defend(OWNER, "withdraw", wallet(CAROL), at="mint")
    target.harm(kept > ETHER and await target.balance(target.at["mint"]) > 0)
    if target.sound:
        assert kept == ETHER
        await target.attack(
            GUARDIAN, "mintNodeAccess", at="mint", value_wei=ETHER - 1,
            refusal=f"TooLittle({ETHER})",
        )  # fmt: skip
        await target.attack(STRANGER, "withdraw", wallet(STRANGER), at="mint", refusal="NotOwner")
        # Nothing else takes money, with or without a call.
        grant = ABIS["registry"].function("grantSeat").encode(wallet(GUARDIAN), 1)
        for role, data in (("registry", b""), ("registry", grant), ("mint", b""), ("rules", b""),
                           ("certificates", b""), ("app", b"")):  # fmt: skip
            await target.attack_raw(OWNER, data, at=role, value_wei=1, refusal="unknown")


async def test_E16_dstacks_question_about_a_boot_is_understood_and_answered(
    target: Target,
) -> None:
    app, compose, image = target.at["app"], b"c" * 32, b"i" * 32
    if target.sound:
        await target.do(OWNER, "allowApp", app, True)
        await target.do(OWNER, "addComposeHash", compose, at="rules")
        await target.do(OWNER, "addOsImage", image, at="rules")
        await target.do(OWNER, "setBootRules", True, True, False, at="rules")
    nobody = hexed(bytes(20))

    async def answer(
        *, app_id: bytes = app, compose: bytes = compose, tcb: str = "UpToDate"
    ) -> Any:
        info = (
            "0x" + app_id.hex(),
            compose,
            nobody,
            bytes(32),
            bytes(32),
            bytes(32),
            image,
            tcb,
            [],
        )
        data = ABIS["app"].function("isAppAllowed").encode(info)
        assert data[:4].hex() == "1e079198", "as dstack's KMS asks"
        return ABIS["app"].function("isAppAllowed").decode(await target.ask(app, data))

    try:
        allowed = (await answer())[0]
    except CallReverted:
        allowed = False
    target.harm(not allowed)  # no machine of the cluster gets its keys
    if target.sound:
        assert await answer(compose=b"x" * 32) == (False, b"Compose hash not allowed")
        assert await answer(tcb="OutOfDate") == (False, b"TCB status is not up to date")
        assert await answer(app_id=b"\1" * 20) == (False, b"Another app's id")
        for interface in ("1e079198", "8fd37527", "01ffc9a7"):
            assert await target.view("supportsInterface", bytes.fromhex(interface), at="app")


async def test_E19_a_withheld_event_is_noticed(target: Target) -> None:
    for seat, name in ((1, "alice"), (2, "bob"), (3, "carol")):
        await target.enlist(seat, name)
    told = await events_of(target)
    version, digest = await target.view("version"), await target.view("digest")
    assert await reads(target, told, version, digest), "the whole truth"
    hidden = [log for log in told if log.topics[-1] != (2).to_bytes(32, "big")]
    target.harm(await reads(target, hidden, version, digest))
    if target.sound:
        bent = [*told[:-1], _bent(told[-1])]
        assert not await reads(target, bent, version, digest)
        assert not await reads(target, [*told, told[-1]], version, digest)


def _bent(log: Log) -> Log:
    return replace(log, data=log.data[:-1] + bytes([log.data[-1] ^ 3]))


async def events_of(target: Target) -> list[Log]:
    topic = "0x" + ABIS["registry"].event("NodeChanged").topic.hex()
    query = {"address": "0x" + target.contract.hex(), "fromBlock": "0x0", "topics": [topic]}
    return list(logs(await target.rpc.call("eth_getLogs", [query]), 1000))


async def reads(target: Target, told: list[Log], version: int, digest: bytes) -> bool:
    """Whether our reader believes these events."""
    event = ABIS["registry"].event("NodeChanged")
    try:
        replay = Replay(Change(0, 0, bytes(32)), Change(2**48, version, digest), Seats({}))
        replay.add([node_change(log, event, target.contract) for log in told])
        replay.finish()
    except BadChainData:
        return False
    return True


async def test_E20_nobody_makes_reading_dear_for_all(target: Target) -> None:
    honest = await target.enlist(1, "alice")
    before = await target.gas_of_view("page", 1, 4)
    for number, length in enumerate((129, 24_000)):
        long = await target.proof(2, "bob", endpoint="/" * length, incarnation=1 + number)
        await target.attack(BOB, "register", *long.call, refusal="BadEndpoint")
    target.harm(await target.gas_of_view("page", 1, 4) > 10 * before)
    if target.sound:
        until_s = honest.deadline
        for text in ("", "/" * 129):
            call = honest.announcement(2, text, until_s)
            await target.attack(ALICE, "announce", *call, refusal="BadEndpoint")
        longest = await target.proof(2, "bob", endpoint="/" * 128)
        await target.do(BOB, "register", *longest.call)
        assert await target.gas_of_view("page", 1, 4) < before + 50_000


async def test_E21_a_bad_member_can_be_put_out(target: Target) -> None:
    bad = await target.enlist(2, "bob")
    put_out = [await target.defend(GUARDIAN, "deactivate", 2)]
    if target.sound:
        assert await target.view("activeWeight") == 0
        again = (await target.proof(2, "bob", incarnation=2)).call
        until = (await target.row(2))["expires_at"]
        await target.attack(BOB, "register", *again, refusal=f"CoolingDown({until})")
    put_out.append(await target.defend(OWNER, "burnSeat", 2))
    target.harm(not any(put_out) and await target.listed(2, bad.key_x))
    if target.sound:
        await target.attack(BOB, "register", *again, refusal="NoSuchSeat")
        # One that only went silent goes by the calendar.
        silent = await target.enlist(3, "carol")
        await target.at_time(await target.now() + 7 * 24 * 3600 + 1)
        await target.do(STRANGER, "sweep", [1, 3])
        assert not await target.listed(3, silent.key_x)


async def test_E25_a_root_whose_key_is_public_is_not_deployed_by_accident(
    target: Target, compiled: Compiled, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No contract can see it, and ours takes it as the flawed one does. The command refuses."""
    vectors = Path(__file__).parents[2] / "vectors" / "dstack.json"
    public = json.loads(vectors.read_text())["simulators"]["pre_0.5.6"]
    root = bytes.fromhex(public["kms_root_address"][2:])
    app = coincurve.PrivateKey(bytes.fromhex(public["app_root_private_key"]))
    app_id = bytes.fromhex(public["app_id"])

    # Whoever reads dstack's repository makes a whole chain, outside of any TEE.
    if target.sound:
        at_risk = await our_contracts(target.rpc, root)
    else:
        at_risk = await flawed_contract(target.rpc, compiled, "FlawedMembership", root)
    await at_risk.do(OWNER, "allowApp", app_id, True)
    signature = bytes.fromhex(public["k256_signature"])
    signature = signature[:64] + bytes([27 + signature[64]])
    await at_risk.do(STRANGER, "certifyAppKey", app_id, *point(app), signature, 1)
    await at_risk.do(OWNER, "grantSeat", wallet(ALICE), 1)
    evil = await at_risk.proof(1, "evil", app=app)
    await at_risk.do(ALICE, "register", *evil.call)
    assert await at_risk.listed(1, evil.key_x)

    async def deploys(kms_root: bytes, *flags: str) -> tuple[bool, str]:
        line = [
            "deploy", "--chain-id", str(CHAIN_ID), "--kms-root", kms_root.hex(), *flags,
            "--rpc", str(target.url), "--single-rpc-insecure", "--json",
            "--deployment", str(tmp_path / "deployment.json"), "--from", wallet(OWNER),
        ]  # fmt: skip
        status = await trio.to_thread.run_sync(operator.main, line)
        return status == 0, "".join(capfd.readouterr())

    # The flawed rule: whatever root is named is taken.
    accepted = True
    if target.sound:
        for known in PUBLIC_TEST_ROOTS:
            accepted, said = await deploys(known)
            assert not accepted and "is public" in said
        assert (await deploys(root, "--insecure-simulator"))[0]
        assert (await deploys(address(KMS)))[0]
    target.harm(accepted)
