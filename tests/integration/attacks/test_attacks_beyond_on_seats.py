"""X02 to X11: attacks on seats, roles, time and money that no list named. On ours alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from chain.abi import encode
from chain.registration import owner_authorization
from consensus.types import View, VoteKind
from contracts import artifact
from tests.integration.anvil_chain import CHAIN_ID, address, instance
from tests.integration.attacks.ballots import Cluster, launched
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.proofs import key, twin
from tests.integration.attacks.target import (
    ABIS,
    ALICE,
    BOB,
    CAROL,
    DAN,
    GUARDIAN,
    LEASE_S,
    OWNER,
    ROLES,
    STRANGER,
    Target,
    hexed,
    wallet,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

ETHER = 10**18
DAY_S = 24 * 3600
SELLER_PRICE = ETHER


class Hostile:
    """A wallet that calls back from inside whatever calls it."""

    def __init__(self, target: Target, compiled: Compiled, at: bytes) -> None:
        self._target, self._abi, self.address = target, compiled.abi("Hostile"), at

    @classmethod
    async def made(cls, target: Target, compiled: Compiled) -> Hostile:
        at = await target.create(compiled.creation_code("Hostile"))
        assert isinstance(at, bytes)
        return cls(target, compiled, at)

    async def arm(self, role: str, function: str, *values: Any, refuses: bool = False) -> None:
        data = ABIS[role].function(function).encode(*values)
        armed = self._abi.function("arm").encode(hexed(self._target.at[role]), data, refuses)
        assert not isinstance(
            await self._target.transact(STRANGER.address, self.address, armed), Exception
        )

    async def act(self, role: str, function: str, *values: Any, value_wei: int = 0) -> str:
        """Its own call; the refusal, or nothing."""
        data = ABIS[role].function(function).encode(*values)
        acted = self._abi.function("act").encode(hexed(self._target.at[role]), data)
        done = await self._target.transact(STRANGER.address, self.address, acted, value_wei)
        return done.text if isinstance(done, Exception) else ""

    async def counts(self) -> tuple[int, int]:
        """How often it was called back, and how often its own call went through then."""
        found = []
        for name in ("calledBack", "gotThrough"):
            view = self._abi.function(name)
            found += view.decode(await self._target.ask(self.address, view.encode()))
        return found[0], found[1]


async def sale(ours: Target) -> None:
    await ours.do(OWNER, "setMinter", hexed(ours.at["mint"]), 1)
    await ours.do(OWNER, "setClusterConfig", SELLER_PRICE, 10, 1, True, at="mint")


async def test_X02_a_buyer_that_calls_back_gets_one_seat_for_its_price(
    ours: Target, compiled: Compiled
) -> None:
    await sale(ours)
    buyer = await Hostile.made(ours, compiled)
    await buyer.arm("mint", "mintNodeAccess")
    assert not await buyer.act("mint", "mintNodeAccess", value_wei=5 * ETHER)
    assert await buyer.counts() == (1, 0)
    assert await ours.balance(ours.at["mint"]) == SELLER_PRICE
    assert await ours.view("minted", at="mint") == 1 and await ours.view("seatCount") == 5
    # One that does not take its change gets nothing at all.
    picky = await Hostile.made(ours, compiled)
    await picky.arm("mint", "mintNodeAccess", refuses=True)
    assert await picky.act("mint", "mintNodeAccess", value_wei=5 * ETHER) == "PaymentFailed()"
    assert await ours.view("minted", at="mint") == 1


async def test_X03_a_payee_that_calls_back_takes_what_there_is_and_no_more(
    ours: Target, compiled: Compiled
) -> None:
    await sale(ours)
    await ours.do(STRANGER, "mintNodeAccess", at="mint", value_wei=ETHER)
    payee = await Hostile.made(ours, compiled)
    await payee.arm("mint", "withdraw", hexed(payee.address))
    await ours.do(OWNER, "withdraw", hexed(payee.address), at="mint")
    assert await payee.counts() == (1, 0)
    # Even as the owner it finds nothing the second time.
    await ours.do(OWNER, "transferOwnership", hexed(payee.address))
    assert not await payee.act("registry", "acceptOwnership")
    await ours.do(GUARDIAN, "mintNodeAccess", at="mint", value_wei=ETHER)
    assert not await payee.act("mint", "withdraw", hexed(payee.address))
    assert await ours.balance(payee.address) == 2 * ETHER


async def test_X04_a_recipient_that_calls_back_cannot_take_a_node_along(
    ours: Target, compiled: Compiled
) -> None:
    await ours.enlist(2, "bob")
    await ours.leave(BOB, 2)
    await ours.do(OWNER, "setTransfersAllowed", True)
    recipient = await Hostile.made(ours, compiled)
    # From inside the transfer it gives the seat on, and would like to keep it.
    await recipient.arm("registry", "transferFrom", hexed(recipient.address), wallet(STRANGER), 2)
    data = (
        ABIS["registry"].function("transferFrom").encode(wallet(BOB), hexed(recipient.address), 2)
    )
    safe = bytes.fromhex("42842e0e") + data[4:]
    assert not isinstance(await ours.transact(BOB.address, ours.contract, safe), Exception)
    assert await recipient.counts() == (1, 1)
    assert await ours.view("ownerOf", 2) == wallet(STRANGER)
    assert await recipient.act("registry", "bindInstance", 2, b"\1" * 20) == "NotSeatOwner()"
    assert await ours.view("activeWeight") == 0 and await ours.view("activeSeats") == 0
    row = await ours.row(2)
    assert (row["status"], row["incarnation"], row["instance_id"]) == (0, 1, bytes(20))


async def test_X05_an_owner_that_signs_everything_opens_its_own_seat_only(
    ours: Target, compiled: Compiled
) -> None:
    yes = await Hostile.made(ours, compiled)
    await ours.do(OWNER, "grantSeat", hexed(yes.address), 1)
    until_s = await ours.now() + 3600
    anything = encode(["uint64", "bytes"], [until_s, b"x" * 65])
    proof = replace(await ours.proof(5, "its machine"), owner_signature=anything)
    forged = replace(proof, app_signature=twin(proof.app_signature))
    await ours.attack(STRANGER, "register", *forged.call, refusal="ECDSAInvalidSignatureS")
    elsewhere = replace(await ours.proof(2, "its machine"), owner_signature=anything)
    await ours.attack(STRANGER, "register", *elsewhere.call, refusal="NotAuthorized")
    # Asked for its word it tries to register first; nothing can be changed from in there.
    await yes.arm("registry", "register", *proof.call)
    await ours.do(STRANGER, "register", *proof.call)
    assert await ours.view("activeSeats") == 1


async def test_X06_an_owners_word_is_good_for_one_seat_instance_day_and_owner(
    ours: Target,
) -> None:
    now_s = await ours.now()

    def word(seat: int = 2, name: str = "bob", until_s: int = now_s + 3600, **other: Any) -> bytes:
        settings = {"chain_id": CHAIN_ID, "contract": ours.contract} | other
        return owner_authorization(
            BOB, seat=seat, instance_id=instance(name), deadline_s=until_s, **settings
        )

    honest = await ours.proof(2, "bob")
    good = word()
    for bad, refusal in (
        (word(seat=1), "NotAuthorized"),
        (word(name="another machine"), "NotAuthorized"),
        (word(chain_id=1), "NotAuthorized"),
        (word(contract=ours.at["mint"]), "NotAuthorized"),
        (word(until_s=now_s - 1), "BadDeadline"),
        (word(until_s=now_s + 2 * DAY_S), "BadDeadline"),
        (good[:128], "unknown"),
        (good[:127], "NotAuthorized"),
        (b"", "NotAuthorized"),
        (encode(["uint64", "bytes"], [now_s + 3601, good[96:161]]), "NotAuthorized"),
        (encode(["uint64", "bytes"], [now_s + 3600, twin(good[96:161])]), "NotAuthorized"),
        # As 64 bytes (EIP-2098), which would be a second form of the same.
        (encode(["uint64", "bytes"], [now_s + 3600, good[96:160]]), "NotAuthorized"),
    ):
        call = replace(honest, owner_signature=bad).call
        await ours.attack(STRANGER, "register", *call, refusal=refusal)
    allowed = replace(honest, owner_signature=good)
    await ours.do(STRANGER, "register", *allowed.call)
    # When it is sold his word is long over, and a new one of his is nobody's any more.
    await ours.sell(BOB, STRANGER, 2)
    later = await ours.proof(2, "bob", incarnation=2)
    for said, refusal in (
        (good, "BadDeadline"), (word(until_s=later.deadline), "NotAuthorized"),
    ):  # fmt: skip
        call = replace(later, owner_signature=said).call
        await ours.attack(GUARDIAN, "register", *call, refusal=refusal)


async def test_X07_a_relayer_changes_and_repeats_nothing(ours: Target) -> None:
    node = await ours.enlist(1, "alice")
    until_s = await ours.now() + 3600
    good = node.announcement(3, "/dns4/a.example/tcp/1", until_s)
    seat, incarnation, deadline, endpoint, signature = good
    for bent, refusal in (
        ((2, incarnation, deadline, endpoint, signature), "NoNode"),
        ((seat, 4, deadline, endpoint, signature), "BadSignature"),
        ((seat, incarnation, deadline + 1, endpoint, signature), "BadSignature"),
        ((seat, incarnation, deadline, "/dns4/b.example/tcp/1", signature), "BadSignature"),
        ((seat, incarnation, deadline, endpoint, twin(signature)), "ECDSAInvalidSignatureS"),
        (node.announcement(3, endpoint, 1), "BadDeadline"),
        (node.announcement(3, endpoint, until_s + 2 * DAY_S), "BadDeadline"),
    ):
        await ours.attack(STRANGER, "announce", *bent, refusal=refusal)
    await ours.do(STRANGER, "announce", *good)
    await ours.attack(STRANGER, "announce", *good, refusal="BadIncarnation(3)")
    # What the node signed elsewhere does not speak here, nor for something else here.
    other = await ours.proof(1, "alice", incarnation=4)
    mixed = replace(other, node_signature=signature)
    await ours.attack(ALICE, "register", *mixed.call, refusal="BadSignature")
    taken = (1, 5, until_s, endpoint, other.node_signature)
    await ours.attack(STRANGER, "announce", *taken, refusal="BadSignature")
    ballot = Cluster(ours, {1: node}).vote(node.node, VoteKind.FINALIZE, View(5, 5), b"b" * 32)
    await ours.attack(STRANGER, "announce", 1, 5, until_s, endpoint, ballot, refusal="BadSignature")
    # A machine that was replaced is out, whatever number it takes.
    await ours.enlist(1, "alice's next machine", incarnation=6)
    late = node.announcement(7, endpoint, until_s)
    await ours.attack(STRANGER, "announce", *late, refusal="BadSignature")
    last = await ours.proof(1, "alice", incarnation=2**48 - 1)
    await ours.do(ALICE, "register", *last.call)
    beyond = replace(await ours.proof(1, "alice"), incarnation=2**48 - 1)
    await ours.attack(
        ALICE, "register", *beyond.signed_by(beyond.node).call,
        refusal=f"BadIncarnation({2**48 - 1})",
    )  # fmt: skip


async def test_X08_leases_deadlines_and_cool_downs_end_at_their_second(ours: Target) -> None:
    node = await ours.enlist(1, "alice")
    ends_s = (await ours.row(1))["expires_at"]
    await ours.next_block_at(ends_s - 1)
    await ours.do(STRANGER, "sweep", [1, 1, 2, 0, 2**255])
    assert await ours.view("activeWeight") == 1, "a second is left"
    await ours.next_block_at(ends_s)
    await ours.do(STRANGER, "sweep", [1, 1, 2, 0, 2**255])
    assert await ours.view("activeWeight") == 0 and await ours.view("activeSeats") == 0
    late = node.announcement(2, "/dns4/a.example/tcp/1", ends_s + 3600)
    await ours.attack(STRANGER, "announce", *late, refusal="NoNode")

    # A deadline is over when its second comes, and a day ahead at most.
    now_s = await ours.now() + 10
    for ahead_s in (0, DAY_S + 1):
        proof = await ours.proof(1, "alice", incarnation=2, deadline=now_s + ahead_s)
        await ours.next_block_at(now_s)
        assert await refusal_of(ours, proof.call) == "BadDeadline()"
        now_s += 10
    proof = await ours.proof(1, "alice", incarnation=2, deadline=now_s + DAY_S)
    await ours.next_block_at(now_s)
    await ours.do(ALICE, "register", *proof.call)

    await ours.do(GUARDIAN, "deactivate", 1)
    over_s = (await ours.row(1))["expires_at"]
    assert over_s == await ours.now() + LEASE_S
    for second, refusal in ((over_s - 1, f"CoolingDown({over_s})"), (over_s, "")):
        proof = await ours.proof(1, "alice", incarnation=3, deadline=second + 60)
        await ours.next_block_at(second)
        assert await refusal_of(ours, proof.call) == refusal


async def refusal_of(ours: Target, call: tuple[Any, ...]) -> str:
    """What comes of a registration by Alice in the next block."""
    data = ABIS["registry"].function("register").encode(*call)
    done = await ours.transact(ALICE.address, ours.contract, data)
    return done.text if isinstance(done, Exception) else ""


# Every function that changes something: who may call it, and arguments. "all": open to anybody by
# design, and attacked elsewhere. One that is not in the table fails the test.
NOBODY = hexed(bytes(19) + b"\1")
MAY: dict[str, dict[str, tuple[str, tuple[Any, ...]]]] = {
    "registry": {
        "launch": ("owner", (bytes(32),)),
        "grantSeat": ("owner minter", (NOBODY, 1)),
        "setWeight": ("owner", (1, 2)),
        "burnSeat": ("owner", (1,)),
        "rotateRoot": ("owner", (NOBODY, 0)),
        "allowApp": ("owner", (b"\1" * 20, True)),
        "setGuardian": ("owner", (NOBODY,)),
        "setLease": ("owner", (60,)),
        "setTransfersAllowed": ("owner", (True,)),
        "unpause": ("owner", ()),
        "liftSuspension": ("owner", (4,)),
        "setCompanions": ("owner", (NOBODY, NOBODY)),
        "setMinter": ("owner", (NOBODY, 1)),
        "transferOwnership": ("owner", (NOBODY,)),
        "acceptOwnership": ("nobody", ()),
        "renounceOwnership": ("nobody", ()),
        "revokeRoot": ("owner guardian", (1,)),
        "pause": ("owner guardian", ()),
        "vetoRecovery": ("owner guardian", ()),
        "deactivate": ("owner guardian holder", (1,)),
        "suspend": ("certificates", (1, 2**40 - 1)),
        "bindInstance": ("holder", (1, b"\1" * 20)),
        "voteRecovery": ("holder", (1, 1, 1, b"h" * 32)),
        "transferFrom": ("holder", (wallet(ALICE), wallet(STRANGER), 1)),
        "safeTransferFrom": ("holder", (wallet(ALICE), wallet(STRANGER), 1, b"")),
        "approve": ("holder", (NOBODY, 1)),
        "setApprovalForAll": ("all", ()),
        "certifyAppKey": ("all", ()),
        "register": ("all", ()),
        "announce": ("all", ()),
        "sweep": ("all", ()),
        "recover": ("all", ()),
    },
    "certificates": {
        "setPolicy": ("owner", ((0, 0, 1, 1, 1),)),
        "openFounding": ("all", ()),
        "openEpoch": ("all", ()),
        "recordLeader": ("all", ()),
        "depose": ("all", ()),
        "proveConflict": ("all", ()),
    },
    "rules": {
        "setPolicy": ("owner", ("{}",)),
        "setBootRules": ("owner", (True, False, False)),
        "setAppAuth": ("owner", (NOBODY,)),
        "addOsImage": ("owner", (b"\1" * 32,)),
        "addComposeHash": ("owner app", (b"\1" * 32,)),
        "addDevice": ("owner app", (b"\1" * 32,)),
        "removeOsImage": ("owner guardian app", (b"\1" * 32,)),
        "removeComposeHash": ("owner guardian app", (b"\1" * 32,)),
        "removeDevice": ("owner guardian app", (b"\1" * 32,)),
    },
    "mint": {
        "setClusterConfig": ("owner", (1, 1, 1, True)),
        "withdraw": ("owner", (wallet(OWNER),)),
        "mintNodeAccess": ("all", ()),
    },
    "app": {
        "setRegistry": ("owner", (NOBODY,)),
        "disableUpgrades": ("owner", ()),
        "addComposeHash": ("owner", (b"\1" * 32,)),
        "removeComposeHash": ("owner", (b"\1" * 32,)),
        "addDevice": ("owner", (b"\1" * 32,)),
        "removeDevice": ("owner", (b"\1" * 32,)),
        "transferOwnership": ("owner", (NOBODY,)),
        "acceptOwnership": ("nobody", ()),
        "renounceOwnership": ("nobody", ()),
        "upgradeToAndCall": ("owner", (NOBODY, b"")),
        "initialize": ("nobody", (wallet(STRANGER), NOBODY)),
    },
}
NO_RIGHT = {
    "OwnableUnauthorizedAccount", "OwnableInvalidOwner", "NotGuardian", "NotSeatOwner", "NotMinter",
    "NotCertificates", "NotOwner", "ERC721InvalidApprover", "ERC721InsufficientApproval",
    "InvalidInitialization",
}  # fmt: skip


@pytest.mark.parametrize("role", list(MAY))
async def test_X09_nobody_does_what_is_anothers_and_no_function_is_forgotten(
    ours: Target, role: str
) -> None:
    changing = {
        entry["name"]
        for entry in artifact(ROLES[role]).abi
        if entry["type"] == "function" and entry["stateMutability"] in ("nonpayable", "payable")
    }
    # it cannot be seen from the ABI that renouncing is refused: there it is pure
    assert changing | {"renounceOwnership"} >= MAY[role].keys() >= changing
    await ours.enlist(1, "alice")
    await ours.leave(ALICE, 1)
    await ours.do(OWNER, "setTransfersAllowed", True)
    await ours.do(OWNER, "setAppAuth", hexed(ours.at["app"]), at="rules")
    await ours.do(OWNER, "setMinter", hexed(ours.at["mint"]), 1)
    actors = {
        "owner": OWNER.address, "guardian": GUARDIAN.address, "holder": ALICE.address,
        "another holder": BOB.address, "stranger": STRANGER.address, "node": address(key("n")),
        "minter": ours.at["mint"], "certificates": ours.at["certificates"], "app": ours.at["app"],
        "rules": ours.at["rules"], "registry": ours.contract,
    }  # fmt: skip
    for function, (may, values) in MAY[role].items():
        if may == "all":
            continue
        data = ABIS[role].function(function).encode(*values)
        for name, who in actors.items():
            if name in may.split():
                continue
            done = await ours.transact(who, ours.at[role], data)
            assert isinstance(done, Exception), f"{name} may {function}"
            assert done.name in NO_RIGHT, f"{function} by {name}: {done.text}"


async def test_X10_a_suspended_seat_comes_back_by_the_owners_word_only(ours: Target) -> None:
    cluster = await launched(ours)
    await ours.do(STRANGER, "proveConflict", 2, *cluster.conflict(2), at="certificates")
    forever = 2**40 - 1
    assert (await ours.row(2))["expires_at"] == forever
    tried = 1

    async def still_out(holder: Any) -> None:
        nonlocal tried
        for name in ("node 2", f"another machine {tried}"):
            tried += 1
            proof = await ours.proof(2, name, incarnation=tried)
            await ours.attack(holder, "register", *proof.call, refusal=f"CoolingDown({forever})")

    await still_out(BOB)
    await ours.do(BOB, "bindInstance", 2, instance("node 2"))
    await still_out(STRANGER)
    await ours.attack(BOB, "deactivate", 2, refusal="NoNode")
    await ours.do(STRANGER, "sweep", [2])
    await ours.do(OWNER, "setWeight", 2, 3)
    await still_out(BOB)
    await ours.do(OWNER, "setWeight", 2, 1)
    await ours.do(OWNER, "setTransfersAllowed", True)
    await ours.at_time(await ours.now() + await ours.view("evidenceWindow"))
    await ours.do(BOB, "transferFrom", wallet(BOB), wallet(STRANGER), 2)
    await still_out(STRANGER)
    await ours.do(STRANGER, "transferFrom", wallet(STRANGER), wallet(BOB), 2)
    await ours.at_time(await ours.now() + 10 * LEASE_S)
    await still_out(BOB)
    await ours.do(OWNER, "liftSuspension", 2)
    back = await ours.enlist(2, "node 2", incarnation=tried + 1)
    # The same two votes are against the same key still.
    await ours.do(STRANGER, "proveConflict", 2, *cluster.conflict(2), at="certificates")
    assert not await ours.listed(2, back.key_x)


async def test_X11_whoever_does_what_in_any_order_weights_and_bindings_add_up(
    ours: Target,
) -> None:
    """A walk of members who bind, clone, leave, sell and are put out, some of it refused."""
    dice = random.Random(11)
    holders = {1: ALICE, 2: BOB, 3: CAROL, 4: DAN}
    await ours.do(OWNER, "setTransfersAllowed", True)
    await ours.do(OWNER, "setLease", 1)
    names = ["a", "b", "c"]
    for step in range(2, 70):
        seat = dice.choice(list(holders))
        who, name = holders[seat], dice.choice(names)
        match dice.randrange(7):
            case 0:
                call = (who, "bindInstance", seat, dice.choice([instance(name), bytes(20)]))
            case 1 | 2 | 3:
                node = key(f"node {name} of seat {seat}")
                proof = await ours.proof(seat, name, node=node, incarnation=step)
                call = (dice.choice([who, STRANGER]), "register", *proof.call)
            case 4:
                call = (dice.choice([who, GUARDIAN]), "deactivate", seat)
            case 5:
                call = (STRANGER, "sweep", [seat])
            case _:
                other = dice.choice([s for s in holders if s != seat])
                to = dice.choice([wallet(STRANGER), wallet(holders[other])])
                call = (who, "transferFrom", wallet(who), to, seat)
        if step % 10 == 0:  # so that some of what is empty can be sold
            await ours.at_time(await ours.now() + await ours.view("evidenceWindow"))
        data = ABIS["registry"].function(call[1]).encode(*call[2:])
        await ours.transact(call[0].address, ours.contract, data)
        rows = {s: await ours.row(s) for s in holders}
        holders = {s: holder_of(row["owner"]) for s, row in rows.items()}
        active = {s: row for s, row in rows.items() if row["status"] == 1}
        assert await ours.view("activeWeight") == len(active) == await ours.view("activeSeats")
        assert len({row["signer"] for row in active.values()}) == len(active)
        bound = {s: await ours.view("boundInstance", s) for s in holders}
        for name in names:
            expected = instance(name) in bound.values() or any(
                row["instance_id"] == instance(name) for row in active.values()
            )
            assert await ours.view("expectsInstance", instance(name)) is expected


def holder_of(owner: str) -> Any:
    return next(k for k in (ALICE, BOB, CAROL, DAN, STRANGER) if wallet(k) == owner)
