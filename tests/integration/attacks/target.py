"""What an attacker can call, the same for our contracts and for the flawed re-creation.

An attack is written once. ``Target.attack`` sends it: ours must refuse it with the error that is
named, and nothing may have changed; the flawed rules must let it through. ``Target.harm`` looks at
what it was for: it must not have come about on ours, and must have on the flawed ones. What honest
parties do goes through ``Target.do``, which must succeed on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from chain import CallReverted, LocalKey
from chain.abi import ContractAbi
from chain.errors import RpcFault
from chain.keys import keccak256
from chain.rpc import RpcEndpoint
from chain.transactions import contract_address
from contracts import artifact
from deploy.contract import owners_abi
from tests.integration.anvil_chain import APP, APP_ID, KMS, address
from tests.integration.attacks.proofs import Proof, kms_signature, point

MAX_SEATS = 50
LEASE_S = 7 * 24 * 3600
RECOVERY_DELAY_S = 2 * 24 * 3600
GAS = 29_000_000
ROLES = {
    "registry": "Registry",
    "certificates": "Certificates",
    "rules": "Rules",
    "mint": "PublicMint",
    "app": "AppAuth",
}
ABIS = {role: ContractAbi(artifact(name).abi) for role, name in ROLES.items()}
ERRORS = owners_abi()

OWNER, GUARDIAN, ALICE, BOB, CAROL, DAN, STRANGER = (
    LocalKey(keccak256(name))
    for name in (b"owner", b"guardian", b"alice", b"bob", b"carol", b"dan", b"stranger")
)
HOLDERS = (ALICE, BOB, CAROL, DAN)  # of seats 1 to 4, each of weight 1


@dataclass(frozen=True)
class Receipt:
    gas_used: int
    logs: list[dict[str, Any]]


@dataclass
class Target:
    """Contracts of one kind on a running chain.

    ``at`` has the addresses by role; the flawed ones are all in one contract.
    """

    rpc: RpcEndpoint
    sound: bool
    at: dict[str, bytes]
    url: str = ""
    funded: set[bytes] = field(default_factory=set)

    @property
    def contract(self) -> bytes:
        """The registry's address."""
        return self.at["registry"]

    # ------------------------------------------------------------ what an attack is judged by

    async def attack(
        self,
        who: LocalKey,
        function: str,
        *values: Any,
        refusal: str,
        at: str = "registry",
        value_wei: int = 0,
    ) -> None:
        """A call that ours refuses with that error (a name, or with its arguments)."""
        data = ABIS[at].function(function).encode(*values)
        await self.attack_raw(who, data, refusal=refusal, at=at, value_wei=value_wei)

    async def attack_raw(
        self,
        who: LocalKey,
        data: bytes,
        *,
        refusal: str,
        at: str = "registry",
        value_wei: int = 0,
    ) -> None:
        before = await self.state() if self.sound else ()
        refused = await self.transact(who.address, self.at[at], data, value_wei)
        if not self.sound:
            assert isinstance(refused, Receipt), f"the flawed rules refuse it: {refused}"
            return
        assert isinstance(refused, CallReverted), f"{data[:4].hex()} went through"
        assert refusal in (refused.name, refused.text), refused.text
        assert await self.state() == before

    def harm(self, done: bool) -> None:
        """Whether the attack had its effect."""
        assert done != self.sound, "it did harm" if done else "it did none: not the attack"

    async def defend(
        self, who: LocalKey, function: str, *values: Any, at: str = "registry"
    ) -> bool:
        """What honest parties have against an attack; the flawed rules may lack it."""
        data = ABIS[at].function(function).encode(*values)
        done = await self.transact(who.address, self.at[at], data)
        if self.sound and isinstance(done, CallReverted):
            raise done
        return isinstance(done, Receipt)

    # ------------------------------------------------------------ calls

    async def do(
        self, who: LocalKey, function: str, *values: Any, at: str = "registry", value_wei: int = 0
    ) -> Receipt:
        """A call that must succeed."""
        return await self.do_as(who.address, function, *values, at=at, value_wei=value_wei)

    async def do_as(
        self, who: bytes, function: str, *values: Any, at: str = "registry", value_wei: int = 0
    ) -> Receipt:
        """The same by any address, a contract's too."""
        data = ABIS[at].function(function).encode(*values)
        done = await self.transact(who, self.at[at], data, value_wei)
        if isinstance(done, CallReverted):
            raise done
        return done

    async def refused(
        self, who: LocalKey, function: str, *values: Any, at: str = "registry", value_wei: int = 0
    ) -> str:
        """A call that must fail; the error with its arguments."""
        data = ABIS[at].function(function).encode(*values)
        done = await self.transact(who.address, self.at[at], data, value_wei)
        assert isinstance(done, CallReverted), f"{function} went through"
        return done.text

    async def view(self, function: str, *values: Any, at: str = "registry") -> Any:
        """The result of a view; its only one, or all of them."""
        described = ABIS[at].function(function)
        found = described.decode(await self.ask(self.at[at], described.encode(*values)))
        return found[0] if len(found) == 1 else found

    async def ask(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """An ``eth_call``; raises CallReverted."""
        call = {"from": hexed(sender), "to": hexed(to), "data": hexed(data)}
        try:
            return bytes.fromhex((await self.rpc.call("eth_call", [call, "latest"]))[2:])
        except RpcFault as fault:
            if fault.data is None:
                raise
            raise ERRORS.reverted(fault.data) from None

    async def gas_of_view(self, function: str, *values: Any) -> int:
        data = ABIS["registry"].function(function).encode(*values)
        call = {"to": hexed(self.contract), "data": hexed(data)}
        return int(await self.rpc.call("eth_estimateGas", [call]), 16)

    async def transact(
        self, sender: bytes, to: bytes | None, data: bytes, value_wei: int = 0
    ) -> Receipt | CallReverted:
        """A transaction by whoever it may be: mined, and its receipt or why it reverted."""
        await self._fund(sender)
        transaction = {
            "from": hexed(sender), "data": hexed(data), "gas": hex(GAS), "value": hex(value_wei),
        } | ({"to": hexed(to)} if to else {})  # fmt: skip
        tx_hash = await self.rpc.call("eth_sendTransaction", [transaction])
        with trio.fail_after(30):
            while not (found := await self.rpc.call("eth_getTransactionReceipt", [tx_hash])):
                await trio.sleep(0.001)
        if int(found["status"], 16):
            return Receipt(int(found["gasUsed"], 16), found["logs"])
        # The reason is not in a receipt.
        traced = await self.rpc.call("debug_traceTransaction", [tx_hash, {"tracer": "callTracer"}])
        return ERRORS.reverted(bytes.fromhex(traced.get("output", "0x")[2:]))

    async def create(self, code: bytes, *, sender: LocalKey = OWNER) -> bytes | CallReverted:
        """Deploys a contract; its address."""
        nonce = int(
            await self.rpc.call("eth_getTransactionCount", [hexed(sender.address), "latest"]), 16
        )
        done = await self.transact(sender.address, None, code)
        if isinstance(done, CallReverted):
            return done
        return contract_address(sender.address, nonce)

    async def _fund(self, who: bytes) -> None:
        if who not in self.funded:
            self.funded.add(who)
            await self.rpc.call("anvil_setBalance", [hexed(who), hex(10**21)])

    # ------------------------------------------------------------ time and money

    async def now(self) -> int:
        """The time of the newest block, in unix seconds."""
        return int(
            (await self.rpc.call("eth_getBlockByNumber", ["latest", False]))["timestamp"], 16
        )

    async def at_time(self, time_s: int) -> None:
        """Mines a block of that time."""
        await self.rpc.call("evm_setNextBlockTimestamp", [hex(time_s)])
        await self.rpc.call("evm_mine", [])

    async def next_block_at(self, time_s: int) -> None:
        """The next transaction is mined at that time."""
        await self.rpc.call("evm_setNextBlockTimestamp", [hex(time_s)])

    async def balance(self, who: bytes) -> int:
        return int(await self.rpc.call("eth_getBalance", [hexed(who), "latest"]), 16)

    # ------------------------------------------------------------ honest parties

    async def found(self) -> None:
        """An app with its key, and four seats without nodes."""
        await self.do(OWNER, "allowApp", APP_ID, True)
        await self.certify()
        for holder in HOLDERS:
            await self.do(OWNER, "grantSeat", hexed(holder.address), 1)

    async def certify(self) -> None:
        await self.do(STRANGER, "certifyAppKey", *certificate())

    async def launch(self) -> None:
        """With whoever votes now; the flawed rules do not ask."""
        founders = (await self.view("lastChange"))[2] if self.sound else bytes(32)
        await self.do(OWNER, "launch", founders)

    async def proof(self, seat: int, name: str, **changes: Any) -> Proof:
        """All that an honest machine on that seat shows; an hour long."""
        changes.setdefault("deadline", await self.now() + 3600)
        return Proof.honest(self.contract, seat, name, **changes)

    async def enlist(
        self, seat: int, name: str, who: LocalKey | None = None, **changes: Any
    ) -> Proof:
        """Puts an honest node on a seat, sent by the seat's owner."""
        proof = await self.proof(seat, name, **changes)
        await self.do(who or HOLDERS[seat - 1], "register", *proof.call)
        return proof

    async def leave(self, holder: LocalKey, seat: int) -> None:
        """Takes the seat's node off, and waits until the seat answers for no key any more."""
        await self.do(holder, "deactivate", seat)
        await self.at_time(await self.now() + await self.view("evidenceWindow"))

    async def sell(self, giver: LocalKey, to: LocalKey, seat: int) -> None:
        """A seat with a node changes hands, as soon as the rules let it."""
        await self.do(OWNER, "setTransfersAllowed", True)
        if self.sound:
            await self.leave(giver, seat)
        await self.do(giver, "transferFrom", wallet(giver), wallet(to), seat)

    # ------------------------------------------------------------ what one sees

    async def state(self) -> tuple[Any, ...]:
        """What must be the same after a refused call."""
        registry = [await self.view(name) for name in ("digest", "activeWeight", "grantedWeight")]
        leader = await self.view("leader", at="certificates")
        rules = await self.view("revision", at="rules")
        return *registry, leader, rules, await self.view("minted", at="mint")

    async def row(self, seat: int) -> dict[str, Any]:
        """A seat's row, by name."""
        names = (
            "seat", "owner", "weight", "status", "root_epoch", "scheme", "key_odd", "expires_at",
            "incarnation", "instance_id", "key_x", "signer", "endpoint",
        )  # fmt: skip
        found = dict(zip(names, await self.view("member", seat), strict=True))
        return found | {"endpoint": found["endpoint"].decode("utf-8", "replace")}

    async def listed(self, seat: int, key_x: bytes) -> bool:
        """Whether the seat shows an active node of that key."""
        row = await self.row(seat)
        return bool(row["status"] == 1 and row["key_x"] == key_x)

    async def endpoint(self, seat: int) -> str:
        return str((await self.row(seat))["endpoint"])


def certificate(
    app: Any = APP, app_id: bytes = APP_ID, kms: Any = KMS, epoch: int = 1
) -> Sequence[Any]:
    """Arguments of ``certifyAppKey``."""
    return app_id, *point(app), kms_signature(app, app_id, kms), epoch


def founding_values(root: bytes = address(KMS), cap: int = MAX_SEATS) -> Sequence[Any]:
    """Arguments of a registry's constructor."""
    return (
        hexed(OWNER.address), hexed(GUARDIAN.address), hexed(root), cap, LEASE_S, RECOVERY_DELAY_S,
    )  # fmt: skip


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def wallet(holder: LocalKey) -> str:
    """Its address, as an argument of a call."""
    return hexed(holder.address)
