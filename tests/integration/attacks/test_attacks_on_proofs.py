"""E01 to E07, E11 to E13, E17, E18, E22 to E24: forged, copied, replayed and misused proofs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from chain import CallReverted
from chain.abi import encode
from chain.registration import purpose_text
from chain.rows import usable_endpoint
from contracts import artifact
from tests.integration.anvil_chain import APP, APP_ID, CHAIN_ID, KMS, address, instance
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.founding import flawed_contract, our_contracts
from tests.integration.attacks.proofs import key, kms_signature, point, signed, twin
from tests.integration.attacks.target import (
    ABIS,
    ALICE,
    BOB,
    OWNER,
    STRANGER,
    Target,
    certificate,
    founding_values,
    hexed,
    wallet,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

EVIL = "/ip4/203.0.113.66/tcp/1"
EVIL_KEY = key("a key that nobody attested")


async def test_E01_a_strangers_key_signs_no_claims(target: Target) -> None:
    forged = await target.proof(2, "evil", app=EVIL_KEY)
    await target.attack(BOB, "register", *forged.call, refusal="BadAppKey")
    target.harm(await target.listed(2, forged.key_x))
    # The genuine, public signature of the root does not fit that key, by any rules.
    refused = await target.refused(
        STRANGER, "certifyAppKey", APP_ID, *point(EVIL_KEY), kms_signature(APP, APP_ID, KMS), 1
    )
    assert refused == ("BadSignature()" if target.sound else "not the root's")
    honest = await target.enlist(2, "evil", incarnation=2)
    assert await target.listed(2, honest.key_x)


async def test_E02_random_bytes_are_no_signature_and_nothing_is_no_key(target: Target) -> None:
    dice = random.Random(2)
    accepted = 0
    for _ in range(24):
        junk = dice.randbytes(64) + bytes([27 + dice.randrange(2)])
        forged = replace(await target.proof(2, "evil"), app_signature=junk)
        data = ABIS["registry"].function("register").encode(*forged.call)
        done = await target.transact(BOB.address, target.contract, data)
        if isinstance(done, CallReverted):
            if target.sound:
                assert done.name in ("BadAppKey", "ECDSAInvalidSignature", "ECDSAInvalidSignatureS")
        else:
            accepted += 1
    target.harm(accepted > 0)
    nothing = (await target.proof(2, "evil")).bent(key_x=bytes(32), key_y=bytes(32))
    await target.attack(BOB, "register", *nothing.call, refusal="NotOnCurve")
    await target.enlist(2, "bob", incarnation=2)


async def test_E03_nobody_rewrites_the_row_of_a_seat_that_is_not_hers(target: Target) -> None:
    hers = await target.enlist(1, "alice")
    await target.attack(STRANGER, "register", *hers.call, refusal="BadIncarnation(1)")
    mine = hers.bent(endpoint=EVIL, incarnation=2)
    await target.attack(STRANGER, "register", *mine.call, refusal="NotAuthorized")
    target.harm(await target.endpoint(1) == EVIL)
    # Not her own machine, perfectly proven, either; nor a member of another seat.
    other = await target.proof(1, "evil", incarnation=3)
    if target.sound:
        await target.attack(STRANGER, "register", *other.call, refusal="NotAuthorized")
        await target.attack(BOB, "register", *other.call, refusal="NotAuthorized")
        # With the owner's binding a stranger may send it, but not what the node did not sign.
        await target.do(ALICE, "bindInstance", 1, hers.instance_id)
        await target.attack(STRANGER, "register", *mine.call, refusal="BadSignature")
        await target.do(STRANGER, "register", *mine.signed_by(hers.node).call)


async def test_E04_a_proof_copied_out_of_a_transaction_seats_nobody_else(target: Target) -> None:
    hers = await target.enlist(1, "alice")
    copied = hers.bent(seat=2, instance_id=instance("a machine without TEE"), node_signature=b"")
    await target.attack(BOB, "register", *copied.call, refusal="BadAppKey")
    target.harm(await target.listed(2, hers.key_x))
    if target.sound:
        # On her own seat, by somebody who lacks the node's key or changes what it signed.
        again = (await target.proof(1, "alice", incarnation=2)).signed_by(EVIL_KEY)
        await target.attack(ALICE, "register", *again.call, refusal="BadSignature")
        again = again.signed_by(again.node)
        for bent in (
            again.bent(endpoint=EVIL), again.bent(incarnation=3),
            again.bent(deadline=again.deadline + 1),
        ):  # fmt: skip
            await target.attack(ALICE, "register", *bent.call, refusal="BadSignature")
        await target.do(ALICE, "register", *again.call)


async def test_E05_another_app_under_the_same_root_does_not_qualify(target: Target) -> None:
    other, other_id = key("another app"), bytes.fromhex("bb" * 20)
    await target.do(STRANGER, "certifyAppKey", *certificate(other, other_id))
    proof = await target.proof(2, "evil", app=other)
    await target.attack(BOB, "register", *proof.call, refusal=f"AppNotAllowed(0x{other_id.hex()})")
    target.harm(await target.listed(2, proof.key_x))
    # Certifying is open to all, and takes no key over.
    if target.sound:
        claimed = (STRANGER, "certifyAppKey", *certificate(other, b"\xcc" * 20))
        await target.attack(*claimed, refusal="BadAppKey")
        await target.do(OWNER, "allowApp", other_id, True)
        await target.do(BOB, "register", *proof.call)


async def test_E06_a_proof_for_another_contract_or_chain_does_not_count(
    target: Target, compiled: Compiled
) -> None:
    if target.sound:
        second = await our_contracts(target.rpc)
    else:
        second = await flawed_contract(target.rpc, compiled, "FlawedMembership")
    await second.found()
    there = await second.enlist(2, "bob")  # public from now on
    await target.attack(BOB, "register", *there.call, refusal="BadAppKey")
    target.harm(await target.listed(2, there.key_x))
    here = await target.proof(2, "bob", node=there.node, incarnation=2)
    elsewhere = await target.proof(2, "bob", node=there.node, incarnation=3, chain_id=1)
    if target.sound:
        mixed = replace(here, node_signature=there.node_signature)
        await target.attack(BOB, "register", *mixed.call, refusal="BadSignature")
        await target.attack(BOB, "register", *elsewhere.call, refusal="BadAppKey")
    await target.do(BOB, "register", *here.call)


async def test_E07_who_names_an_instance_first_locks_nobody_out(target: Target) -> None:
    await target.do(BOB, "bindInstance", 2, instance("alice"))
    hers = await target.proof(1, "alice")
    locked_out = not await target.defend(ALICE, "register", *hers.call)
    target.harm(locked_out)
    if target.sound:
        assert await target.listed(1, hers.key_x)
        # What stands is not to be had twice, and her own seat is not his to bind.
        clone = await target.proof(2, "alice", node=key("a clone"))
        await target.attack(BOB, "register", *clone.call, refusal="InstanceInUse")
        await target.attack(BOB, "bindInstance", 1, clone.instance_id, refusal="NotSeatOwner")


async def test_E11_members_of_a_root_that_was_replaced_neither_renew_nor_stay(
    target: Target,
) -> None:
    hers = await target.enlist(1, "alice")
    await target.do(OWNER, "rotateRoot", hexed(address(key("new root"))), 0)
    renewed = hers.announcement(2, hers.endpoint, await target.now() + 3600)
    await target.attack(STRANGER, "announce", *renewed, refusal="RootNotLive(1)")
    await target.defend(STRANGER, "sweep", [1])
    target.harm(await target.view("activeWeight") == 1)
    new = await target.proof(2, "bob")
    await target.attack(BOB, "register", *new.call, refusal="RootNotLive(1)")
    if target.sound:
        again = certificate(kms=key("new root"), epoch=2)
        await target.attack(STRANGER, "certifyAppKey", *certificate(), refusal="RootNotLive(1)")
        await target.attack(
            STRANGER, "certifyAppKey", *certificate(epoch=2), refusal="BadSignature"
        )
        await target.do(STRANGER, "certifyAppKey", *again)
        await target.do(BOB, "register", *new.call)


async def test_E12_no_root_is_zero_and_a_failed_recovery_is_no_signer(
    target: Target, compiled: Compiled
) -> None:
    nobody = bytes(64) + b"\x1b"
    values = founding_values(bytes(20))
    if target.sound:
        types = ABIS["registry"].constructor_types
        refused = await target.create(artifact("Registry").bytecode + encode(types, values))
        assert isinstance(refused, CallReverted) and refused.name == "ZeroAddress"
    else:
        made = await target.create(compiled.creation_code("FlawedMembership", *values))
        assert isinstance(made, bytes)
        target.at = dict.fromkeys(ABIS, made)
        await target.do(OWNER, "grantSeat", wallet(ALICE), 1)
        await target.do(OWNER, "grantSeat", wallet(BOB), 1)
    await target.attack(
        STRANGER, "certifyAppKey", APP_ID, *point(EVIL_KEY), nobody, 1,
        refusal="ECDSAInvalidSignature",
    )  # fmt: skip
    forged = await target.proof(2, "evil", app=EVIL_KEY)
    await target.attack(BOB, "register", *forged.call, refusal="BadAppKey")
    target.harm(await target.listed(2, forged.key_x))
    await target.attack(OWNER, "rotateRoot", hexed(bytes(20)), 0, refusal="ZeroAddress")
    if target.sound:
        honest = await target.proof(2, "bob")
        for bent in (
            replace(honest, app_signature=nobody), replace(honest, node_signature=nobody)
        ):  # fmt: skip
            await target.attack(BOB, "register", *bent.call, refusal="ECDSAInvalidSignature")
        await target.do(BOB, "register", *honest.call)


async def test_E13_what_was_withdrawn_does_not_qualify_and_no_odd_address_is_believed(
    target: Target,
) -> None:
    hers = await target.enlist(1, "alice")
    await target.do(OWNER, "allowApp", APP_ID, False)
    new = await target.proof(2, "bob", endpoint="https://evil.example")
    gone = f"AppNotAllowed(0x{APP_ID.hex()})"
    await target.attack(BOB, "register", *new.call, refusal=gone)
    await target.attack(
        STRANGER, "announce", *hers.announcement(2, EVIL, new.deadline), refusal=gone
    )
    target.harm(await target.endpoint(2) == "https://evil.example")
    if target.sound:
        await target.do(STRANGER, "sweep", [1])
        assert await target.view("activeWeight") == 0
        # Endpoints are free text to the contract; it is the reader who takes multiaddrs only.
        await target.do(OWNER, "allowApp", APP_ID, True)
        await target.do(BOB, "register", *new.call)
        assert usable_endpoint((await target.endpoint(2)).encode()) == ""
        assert usable_endpoint(EVIL.encode()) == EVIL


async def test_E17_the_high_s_twins_of_signatures_are_refused(target: Target) -> None:
    app_id, x, y, good, epoch = certificate(key("one more app"))
    await target.attack(
        STRANGER, "certifyAppKey", app_id, x, y, twin(good), epoch,
        refusal="ECDSAInvalidSignatureS",
    )  # fmt: skip
    honest = await target.proof(2, "bob")
    mirrored = replace(honest, app_signature=twin(honest.app_signature))
    await target.attack(BOB, "register", *mirrored.call, refusal="ECDSAInvalidSignatureS")
    target.harm(await target.listed(2, honest.key_x))
    if target.sound:
        mirrored = replace(honest, node_signature=twin(honest.node_signature))
        await target.attack(BOB, "register", *mirrored.call, refusal="ECDSAInvalidSignatureS")
        # Nor the last byte as dstack writes it, which nobody has to accept twice.
        low = honest.app_signature[:64] + bytes([honest.app_signature[64] - 27])
        await target.attack(
            BOB, "register", *replace(honest, app_signature=low).call,
            refusal="ECDSAInvalidSignature",
        )  # fmt: skip
    await target.do(BOB, "register", *replace(honest, incarnation=2).signed_by(honest.node).call)


async def test_E18_one_key_is_one_member(target: Target) -> None:
    hers = await target.enlist(1, "alice")
    # Guest API v0 gives one path's key for any purpose, so the claim for seat 2 is genuine.
    again = await target.proof(2, "bob", node=hers.node)
    await target.attack(BOB, "register", *again.call, refusal="KeyInUse")
    target.harm(await target.view("activeWeight") == 2)
    if target.sound:
        await target.do(ALICE, "deactivate", 1)
        await target.attack(BOB, "register", *again.call, refusal="KeyInUse")
        # Nor when another machine is there: a key is of one seat for ever.
        await target.enlist(1, "alice's next machine", incarnation=2)
        await target.attack(BOB, "register", *again.call, refusal="KeyInUse")


async def test_E22_no_byte_of_an_identifier_is_ignored(target: Target) -> None:
    long_id = APP_ID + b"another app"[:11] + b"\1"
    data = ABIS["registry"].function("allowedApp").selector + long_id
    try:
        believed = int.from_bytes(await target.ask(target.contract, data), "big")
    except CallReverted:
        believed = 0
    target.harm(believed == 1)
    assert await target.view("allowedApp", APP_ID)
    if target.sound:
        good = ABIS["registry"].function("bindInstance").encode(2, instance("bob"))
        assert good[-12:] == bytes(12)
        await target.attack_raw(BOB, good[:-1] + b"\1", refusal="unknown")
        # A claim is for exactly its instance.
        honest = await target.proof(2, "bob")
        for bit in (0, 7, 80, 159):
            near = (int.from_bytes(honest.instance_id, "big") ^ 1 << bit).to_bytes(20, "big")
            bent = honest.bent(instance_id=near).signed_by(honest.node)
            await target.attack(BOB, "register", *bent.call, refusal="BadAppKey")


async def test_E23_a_signature_for_another_purpose_is_no_claim(target: Target) -> None:
    right = purpose_text(CHAIN_ID, target.contract, 2, instance("bob"))
    purposes = [
        "signing",  # dstack's own service, which signs for whoever asks
        "",
        purpose_text(CHAIN_ID, target.contract, 1, instance("bob")),
        purpose_text(CHAIN_ID, target.contract, 2, instance("alice")),
        right + " ",
        right.upper(),
    ]
    for number, purpose in enumerate(purposes, 1):
        for scheme in (0, 1):
            misused = await target.proof(
                2, "bob", purpose=purpose, scheme=scheme, incarnation=2 * number + scheme
            )
            await target.attack(BOB, "register", *misused.call, refusal="BadAppKey")
    target.harm(await target.listed(2, misused.key_x))
    await target.enlist(2, "bob", incarnation=99)


async def test_E24_the_empty_instance_id_is_nobodys(target: Target) -> None:
    nobody = await target.proof(2, "evil", endpoint=EVIL, instance_id=bytes(20))
    await target.attack(BOB, "register", *nobody.call, refusal="BadInstance")
    shown = [await target.endpoint(seat) for seat in (1, 3, 4)]
    target.harm(shown == [EVIL] * 3)
    if target.sound:
        # Nothing is bound, and nothing is zero: that must not count as bound.
        await target.attack(STRANGER, "register", *nobody.call, refusal="BadInstance")
        await target.do(BOB, "bindInstance", 2, bytes(20))
        await target.attack(STRANGER, "register", *nobody.call, refusal="BadInstance")
        assert await target.view("activeWeight") == 0
        await target.enlist(2, "bob")


async def test_the_flawed_rules_refuse_what_they_should_so_that_attacks_mean_something(
    target: Target,
) -> None:
    """Two controls: not everybody gets in there, and who should get in does, on both."""
    foreign = certificate(APP, APP_ID, key("another root"))
    assert await target.refused(STRANGER, "certifyAppKey", *foreign)
    honest = await target.proof(1, "alice")
    nowhere = honest.bent(seat=9)
    assert await target.refused(ALICE, "register", *nowhere.call)
    nobody = replace(honest, app_signature=signed(EVIL_KEY, bytes(32))[:64] + b"\0")
    assert await target.refused(ALICE, "register", *nobody.call)
    assert await target.refused(STRANGER, "grantSeat", wallet(STRANGER), 1)
    assert await target.refused(STRANGER, "bindInstance", 1, instance("evil"))
    await target.do(ALICE, "register", *honest.call)
    assert await target.listed(1, honest.key_x)
