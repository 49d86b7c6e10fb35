"""Transactions on a real chain: kills, reorganisations, rising fees, reverts, taken nonces."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from chain import (
    LocalKey,
    TransactionFailed,
    TransactionReplaced,
    TxState,
)
from chain.keys import keccak256
from chain.transactions import Transaction, sign
from deploy import calls
from deploy.contract import (
    registry_abi,
)
from tests.integration.anvil_chain import (
    CHAIN_ID,
    OWNER,
    Chain,
    bind,
    cluster,
    endpoint,
    identity,
    until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


async def test_a_killed_sender_goes_on_from_its_journal(chain: Chain, tmp_path: Path) -> None:
    key = await chain.funded_key("journal")
    await chain.rpc.call("evm_setAutomine", [False])
    chain.mining = False
    journal = tmp_path / "journal.json"
    first = chain.sender(key, journal)
    with trio.move_on_after(0.5) as killed:
        await first.send("pay once", OWNER.address, b"", value=5)
    assert killed.cancelled_caught
    (entry,) = first.status()
    assert entry["state"] == "pending"
    # What the endpoint held is lost as well: only the journal knows.
    await chain.rpc.call("anvil_dropTransaction", [entry["hashes"][0]])

    second = chain.sender(key, journal)
    chain.mining = True
    outcome = await second.send("pay once", OWNER.address, b"", value=5)
    assert outcome.state is TxState.FINAL
    assert "0x" + outcome.tx_hash.hex() == entry["hashes"][0]
    count = await chain.rpc.call("eth_getTransactionCount", ["0x" + key.address.hex(), "latest"])
    assert int(count, 16) == 1
    assert [e["state"] for e in chain.sender(key, journal).status()] == ["final"]


async def test_a_reorganisation_that_drops_a_transaction_is_mended(chain: Chain) -> None:
    key = await chain.funded_key("reorg")
    chain.mining = False
    await chain.mine(6)
    sender = chain.sender(key)
    outcome = await sender.send("pay", OWNER.address, b"", value=5, until=TxState.INCLUDED)
    # The block of the transaction is the newest: one block deep is above the finalized one.
    await chain.rpc.call("anvil_reorg", [1, []])
    assert await chain.rpc.call(
        "eth_getTransactionReceipt", ["0x" + outcome.tx_hash.hex()]
    ) is None  # fmt: skip
    chain.mining = True
    again = await sender.send("pay", OWNER.address, b"", value=5)
    assert again.state is TxState.FINAL and again.tx_hash == outcome.tx_hash
    assert again.block_hash != outcome.block_hash


async def test_fees_rise_when_blocks_pass_a_transaction_by(chain: Chain) -> None:
    key = await chain.funded_key("bump")
    await chain.rpc.call("evm_setAutomine", [False])
    chain.mining = False
    sender = chain.sender(key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            sender.send,
            "pay",
            OWNER.address,
            b"",
        )
        with trio.fail_after(20):
            await until(partial(chain.pending, 1))
            # Blocks too dear for it, until a version with higher fees is there.
            while len(sender.status()[0]["hashes"]) < 2:
                await chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(50 * 10**9)])
                await chain.mine()
                await trio.sleep(0.05)
            await chain.rpc.call("anvil_setNextBlockBaseFeePerGas", [hex(10**9)])
        chain.mining = True
    (entry,) = sender.status()
    assert entry["state"] == "final" and len(entry["hashes"]) >= 2


async def test_a_mined_revert_is_a_failure_with_the_decoded_reason(chain: Chain) -> None:
    """The state moves between the try and the block: the only node leaves before the launch."""
    found = await cluster(chain, seats=2)
    await bind(found, 2, "node2")
    await found.registrar.register(
        identity(found.deployment, 2, "node2"), 2, endpoint(2), 1, until=TxState.INCLUDED
    )
    founders = await found.founders()
    await chain.rpc.call("evm_setAutomine", [False])
    chain.mining = False
    failures: list[TransactionFailed] = []

    async def launch() -> None:
        try:
            await found.owner.send(calls.launch(founders))
        except TransactionFailed as failure:
            failures.append(failure)

    # The seat's owner, who sent the binding before, pays more and so comes first in the same block.
    rival, fee = LocalKey(keccak256(b"w2")), 100 * 10**9
    data = registry_abi().function("deactivate").encode(2)
    contract = found.deployment.contract
    first = sign(Transaction(CHAIN_ID, 1, fee, fee, 500_000, contract, 0, data), rival)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launch)
        await until(partial(chain.pending, 1))
        await chain.rpc.call("eth_sendRawTransaction", ["0x" + first.raw.hex()])
        chain.mining = True
    (failure,) = failures
    assert failure.reason == "NothingToLaunch()"


async def test_a_nonce_taken_by_somebody_else_is_noticed(chain: Chain) -> None:
    key = await chain.funded_key("shared")
    await chain.rpc.call("evm_setAutomine", [False])
    chain.mining = False
    sender = chain.sender(key)
    raised: list[BaseException] = []

    async def send() -> None:
        try:
            await sender.send("pay", OWNER.address, b"", value=1)
        except TransactionReplaced as error:
            raised.append(error)

    fee = 100 * 10**9
    other = sign(Transaction(CHAIN_ID, 0, fee, fee, 21_000, OWNER.address, 2, b""), key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await until(partial(chain.pending, 1))
        await chain.rpc.call("eth_sendRawTransaction", ["0x" + other.raw.hex()])
        chain.mining = True
    assert "used elsewhere" in str(raised[0])
    assert sender.status()[0]["state"] == "replaced"


# ---------------------------------------------------------------------- the operator's command
