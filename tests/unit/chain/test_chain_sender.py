"""The transaction sender against endpoints that refuse, lie and vanish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from faulty_chain import CONTRACT, FakeChain, Fault, Server, http

from chain import journal
from chain.abi import ContractAbi
from chain.errors import (
    CallReverted,
    FeeTooHigh,
    FinalityAlarm,
    InsufficientFunds,
    JournalError,
    NoAgreement,
    SignerError,
    TransactionError,
)
from chain.fees import GWEI, FeePolicy, ether
from chain.journal import TxState
from chain.keys import LocalKey, keccak256
from chain.sender import Order, TransactionSender

KEY = LocalKey(keccak256(b"sender"))
ABI = ContractAbi([{"type": "error", "name": "Nope", "inputs": [{"name": "n", "type": "uint8"}]}])
NOPE = Fault(
    3, "execution reverted", "0x" + (keccak256(b"Nope(uint8)")[:4] + bytes(31)).hex() + "09"
)
POLICY = FeePolicy(poll_interval_s=0.01)
TENDING = FeePolicy(poll_interval_s=0.01, tend_interval_s=0.02)


def paying_chain() -> FakeChain:
    """A chain that mines what it is sent into block 11."""
    chain = FakeChain(finalized=12)
    mined: set[str] = set()

    def send(params: list[str]) -> str:
        tx_hash = "0x" + keccak256(bytes.fromhex(params[0][2:])).hex()
        mined.add(tx_hash)
        return tx_hash

    def receipt(params: list[str]) -> object:
        if params[0] not in mined:
            return None
        return {
            "transactionHash": params[0],
            "blockNumber": hex(11),
            "blockHash": "0x" + chain.hash_of(11).hex(),
            "status": "0x1",
            "gasUsed": hex(21000),
            "effectiveGasPrice": "0x1",
        }

    chain.methods = {
        "eth_estimateGas": hex(40_000),
        "eth_feeHistory": {"baseFeePerGas": [hex(GWEI), hex(GWEI)], "reward": [["0x1"]]},
        "eth_getBalance": hex(10**18),
        "eth_blockNumber": hex(12),
        "eth_getTransactionCount": "0x0",
        "eth_sendRawTransaction": send,
        "eth_getTransactionReceipt": receipt,
    }
    return chain


async def start(serve, reader_of, n: int = 3, k: int = 2, **options):
    servers: list[Server] = await serve(*(paying_chain() for _ in range(n)))
    reader = reader_of(servers, k)
    options.setdefault("journal_path", None)
    options.setdefault("policy", POLICY)
    return servers, TransactionSender(reader, KEY, abi=ABI, **options)


def script(servers: list[Server], method: str, answer: object) -> None:
    """All of them answer a method in this way."""
    for server in servers:
        server.chain.methods[method] = answer


def asked(servers: list[Server]) -> list[str]:
    return [method for server in servers for method, _ in server.chain.asked]


async def state_after_receipts(sender: TransactionSender, servers: list[Server]) -> str:
    """What is told of a transaction when each endpoint was asked for its receipt several times."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, "pay", CONTRACT, b"\x01")
        with trio.fail_after(10):
            while min(asked([s]).count("eth_getTransactionReceipt") for s in servers) < 4:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    state: str = sender.status()[0]["state"]
    return state


async def test_a_transaction_goes_to_all_endpoints_and_becomes_final(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    with trio.fail_after(10):
        outcome = await sender.send("pay", CONTRACT, b"\x01")
    assert outcome.state is TxState.FINAL and outcome.block_number == 11
    for server in servers:
        assert "eth_sendRawTransaction" in asked([server])


async def test_a_receipt_that_one_endpoint_invents_is_not_believed(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    script(servers[1:], "eth_getTransactionReceipt", None)
    assert await state_after_receipts(sender, servers) == "pending"


async def test_a_receipt_in_a_block_that_is_not_canonical_is_not_final(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    for server in servers:
        plain = server.chain.methods["eth_getTransactionReceipt"]
        server.chain.methods["eth_getTransactionReceipt"] = lambda params, plain=plain: (
            (found := plain(params)) and {**found, "blockHash": "0x" + "77" * 32}
        )
    assert await state_after_receipts(sender, servers) == "included"


async def test_what_would_revert_is_refused_with_its_reason_before_any_gas(
    serve, reader_of
) -> None:
    servers, sender = await start(serve, reader_of)
    script(servers[:2], "eth_estimateGas", NOPE)
    with pytest.raises(CallReverted, match=r"Nope\(9\)") as refused:
        await sender.send("pay", CONTRACT, b"\x01")
    assert refused.value.name == "Nope" and sender.status() == []
    assert "eth_sendRawTransaction" not in asked(servers)


async def test_several_transactions_go_at_once_with_rising_nonces(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    orders = [Order(f"pay {n}", CONTRACT, bytes([n])) for n in range(3)]
    with trio.fail_after(10):
        outcomes = await sender.send_all(orders)
    assert [outcome.nonce for outcome in outcomes] == [0, 1, 2]
    assert {outcome.state for outcome in outcomes} == {TxState.FINAL} and servers


async def test_of_several_transactions_none_is_sent_when_one_would_be_refused(
    serve, reader_of
) -> None:
    servers, sender = await start(serve, reader_of)

    def estimate(params: list[dict[str, str]]) -> object:
        return NOPE if params[0]["data"] == "0x02" else hex(40_000)

    script(servers, "eth_estimateGas", estimate)
    with pytest.raises(CallReverted, match=r"Nope\(9\)"):
        await sender.send_all([Order(f"pay {n}", CONTRACT, bytes([n])) for n in range(3)])
    assert sender.status() == [] and "eth_sendRawTransaction" not in asked(servers)


async def test_several_transactions_must_be_affordable_together(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    script(servers, "eth_getBalance", hex(250_000 * GWEI))  # enough for two of three
    with pytest.raises(InsufficientFunds):
        await sender.send_all([Order(f"pay {n}", CONTRACT, bytes([n])) for n in range(3)])
    assert sender.status() == []


class Stray:
    """A signer that shows one address and signs otherwise than asked."""

    address = KEY.address

    def __init__(self, answer) -> None:
        self.sign_transaction = answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda unsigned: KEY.sign(keccak256(unsigned + b"\0")),
        lambda unsigned: LocalKey(keccak256(b"another")).sign_transaction(unsigned),
        lambda unsigned: KEY.sign_transaction(unsigned)[:64],
        lambda unsigned: KEY.sign_transaction(unsigned)[:64] + b"\x01",
        lambda unsigned: bytes(64) + b"\x1b",
    ],
)
async def test_a_signer_that_signs_something_else_sends_nothing(serve, reader_of, answer) -> None:
    servers = await serve(*(paying_chain() for _ in range(3)))
    sender = TransactionSender(
        reader_of(servers, 2), Stray(answer), journal_path=None, abi=ABI, policy=POLICY
    )
    with pytest.raises(SignerError, match="did not sign"):
        await sender.send("pay", CONTRACT, b"\x01")
    assert sender.status() == [] and "eth_sendRawTransaction" not in asked(servers)


async def test_one_endpoint_that_claims_a_revert_stops_nothing(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    servers[0].chain.methods["eth_estimateGas"] = NOPE
    with trio.fail_after(10):
        assert (await sender.send("pay", CONTRACT, b"")).state is TxState.FINAL


@pytest.mark.parametrize("told", [hex(40_000), NOPE], ids=["works", "refused"])
async def test_whether_it_works_is_not_believed_of_one_endpoint(serve, reader_of, told) -> None:
    """The only one that answers, or the quickest of two that contradict each other."""
    servers, sender = await start(serve, reader_of)
    script(servers, "eth_estimateGas", Fault(-32603, "internal error"))
    servers[0].chain.methods["eth_estimateGas"] = told
    with pytest.raises(NoAgreement, match="gas estimate"):
        await sender.estimate(CONTRACT, b"")
    servers[1].chain.methods["eth_estimateGas"] = NOPE if told != NOPE else hex(40_000)
    with pytest.raises(NoAgreement, match="gas estimate"):
        await sender.estimate(CONTRACT, b"")


async def test_too_little_gas_from_one_of_two_is_not_taken(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of, n=2)
    servers[0].chain.methods["eth_estimateGas"] = hex(21_000)
    assert (await sender.estimate(CONTRACT, b"")).gas == 50_000


async def test_one_endpoint_cannot_raise_nonce_or_fees(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    methods = servers[0].chain.methods
    methods["eth_getTransactionCount"] = hex(999)
    methods["eth_getBalance"] = hex(10**30)
    methods["eth_estimateGas"] = hex(10**12)
    methods["eth_feeHistory"] = {"baseFeePerGas": [hex(10**15)], "reward": [[hex(10**15)]]}
    estimate = await sender.estimate(CONTRACT, b"")
    assert estimate.gas == 50_000 and estimate.fee_max < 3 * GWEI
    with trio.fail_after(10):
        assert (await sender.send("pay", CONTRACT, b"")).nonce == 0


async def test_the_quickest_endpoint_cannot_lower_balance_nonce_or_fees(serve, reader_of) -> None:
    """Of three, one lies and one is slower than the patience for those that are not needed."""
    servers, sender = await start(serve, reader_of)
    script(servers[:2], "eth_getTransactionCount", "0x7")
    slow, liar = servers[1], servers[2].chain.methods
    liar["eth_getBalance"] = "0x0"
    liar["eth_feeHistory"] = {"baseFeePerGas": ["0x1"], "reward": [["0x1"]]}

    async def respond(stream: trio.SocketStream, body: bytes) -> None:
        await trio.sleep(0.3)
        await stream.send_all(http(json.dumps(slow.rpc(body)).encode()))

    slow.respond = respond
    assert await sender.next_nonce() == 7
    estimate = await sender.estimate(CONTRACT, b"")
    assert estimate.fee_max > GWEI


async def test_fees_above_the_ceiling_are_not_paid(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of, policy=FeePolicy(fee_ceiling=GWEI // 2))
    with pytest.raises(FeeTooHigh, match=r"1\.001 gwei"):
        await sender.send("pay", CONTRACT, b"")
    assert sender.status() == [] and servers


async def test_missing_funds_name_address_balance_and_sum(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    script(servers, "eth_getBalance", hex(5 * GWEI))
    with pytest.raises(InsufficientFunds) as refused:
        await sender.send("pay", CONTRACT, b"", value=10**18)
    text = str(refused.value)
    assert f"0x{KEY.address.hex()}" in text and "holds 0.000000005 ETH" in text
    assert "send it at least 1.000" in text
    assert ether(1) == "0.000000001" and ether(10**18) == "1.000000000"


async def test_a_transaction_that_nobody_takes_frees_its_nonce(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    plain = servers[0].chain.methods["eth_sendRawTransaction"]
    script(servers, "eth_sendRawTransaction", Fault(-32000, "intrinsic gas too low"))
    with pytest.raises(TransactionError, match=r"no endpoint accepts.*intrinsic gas too low"):
        await sender.send("pay", CONTRACT, b"")
    assert sender.status() == []
    servers[0].chain.methods["eth_sendRawTransaction"] = plain
    for server in servers[1:]:
        server.chain.methods = servers[0].chain.methods
    with trio.fail_after(10):
        assert (await sender.send("pay", CONTRACT, b"")).nonce == 0


async def test_an_endpoint_that_knows_the_transaction_already_is_no_failure(
    serve, reader_of
) -> None:
    servers, sender = await start(serve, reader_of, n=1, k=1)
    chain = servers[0].chain
    plain = chain.methods["eth_sendRawTransaction"]

    def known(params: list[str]) -> object:
        plain(params)
        return Fault(-32003, "transaction already imported")

    chain.methods["eth_sendRawTransaction"] = known
    with trio.fail_after(10):
        assert (await sender.send("pay", CONTRACT, b"")).state is TxState.FINAL


async def test_the_journal_is_written_before_anything_is_sent(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    servers, sender = await start(serve, reader_of, journal_path=path)
    written: list[str] = []
    for server in servers:
        plain = server.chain.methods["eth_sendRawTransaction"]

        def send(params: list[str], plain=plain) -> str:
            written.append(params[0][2:] if params[0][2:] in path.read_text() else "missing")
            return plain(params)

        server.chain.methods["eth_sendRawTransaction"] = send
    with trio.fail_after(10):
        await sender.send("pay", CONTRACT, b"")
    assert written and "missing" not in written
    assert keccak256(b"sender").hex() not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_the_journal_cannot_be_told_is_not_sent_and_its_nonce_is_free(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    servers, sender = await start(serve, reader_of, journal_path=path)
    sent: list[str] = []
    for server in servers:
        plain = server.chain.methods["eth_sendRawTransaction"]
        server.chain.methods["eth_sendRawTransaction"] = lambda params, plain=plain: (
            sent.append(params[0]) or plain(params)
        )
    in_the_way = tmp_path / "journal.json.new"
    in_the_way.mkdir()  # as a full disk would be
    with trio.fail_after(10):
        with pytest.raises(JournalError, match="cannot be written"):
            await sender.send("pay", CONTRACT, b"")
        await sender.settle()
        assert sent == [] and sender.status() == []
        in_the_way.rmdir()
        assert (await sender.send("pay", CONTRACT, b"")).nonce == 0
    assert sent


async def test_of_what_has_ended_the_journal_keeps_no_bytes_and_grows_no_further(
    serve, reader_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.json"
    _, sender = await start(serve, reader_of, journal_path=path)
    with trio.fail_after(30):
        for number in range(4):
            await sender.send(f"pay {number}", CONTRACT, 20_000 * b"x")
    kept = json.loads(path.read_text())["entries"]
    assert [(e["state"], e["data"], e["attempts"][0]["raw"]) for e in kept] == [
        ("final", "", "")
    ] * 4
    assert all(len(entry["attempts"][0]["hash"]) == 64 for entry in kept)
    again = TransactionSender(sender.reader, KEY, journal_path=path, abi=ABI, policy=POLICY)
    assert again.done("pay 3") == sender.done("pay 3") is not None
    # What could not be read back is not written, and so not sent.
    monkeypatch.setattr(journal, "_FILE_BYTES_MAX", path.stat().st_size + 40_000)
    with pytest.raises(JournalError, match="would be longer than"):
        await sender.send("pay much", CONTRACT, 20_000 * b"x")
    assert json.loads(path.read_text())["entries"] == kept


async def test_higher_fees_that_the_journal_cannot_be_told_are_not_offered(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    policy = FeePolicy(poll_interval_s=0.01, bump_after_blocks=1)
    servers, sender = await start(serve, reader_of, journal_path=path, policy=policy)
    sent: set[str] = set()
    height = 12

    def block_number(params: list[str]) -> str:
        nonlocal height
        height += 1
        return hex(height)

    def send(params: list[str]) -> str:
        sent.add(params[0])
        return "0x" + 64 * "1"

    script(servers, "eth_getTransactionReceipt", None)  # nobody mines it
    script(servers, "eth_blockNumber", block_number)
    script(servers, "eth_sendRawTransaction", send)

    in_the_way = tmp_path / "journal.json.new"

    async def fill_disk() -> None:
        while not sent:
            await trio.sleep(0.001)
        in_the_way.mkdir()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill_disk)
            with pytest.raises(JournalError, match="cannot be written"):
                await sender.send("pay", CONTRACT, b"")
    kept = json.loads(path.read_text())["entries"][0]["attempts"]
    assert {raw[2:] for raw in sent} <= {attempt["raw"] for attempt in kept}
    assert sender.status()[0]["hashes"] == ["0x" + attempt["hash"] for attempt in kept]


async def test_nonces_go_on_where_the_journal_ended_though_endpoints_lag(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    servers, sender = await start(serve, reader_of, journal_path=path)
    with trio.fail_after(10):
        assert (await sender.send("one", CONTRACT, b"")).nonce == 0
    again = TransactionSender(sender.reader, KEY, journal_path=path, abi=ABI, policy=POLICY)
    with trio.fail_after(10):
        assert (await again.send("two", CONTRACT, b"")).nonce == 1
    assert servers


async def test_a_journal_of_another_key_or_damaged_is_refused(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    _, sender = await start(serve, reader_of, journal_path=path)
    with trio.fail_after(10):
        await sender.send("one", CONTRACT, b"")
    other = LocalKey(keccak256(b"other"))
    with pytest.raises(JournalError, match="another key"):
        TransactionSender(sender.reader, other, journal_path=path, abi=ABI)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(JournalError, match="not readable"):
        TransactionSender(sender.reader, KEY, journal_path=path, abi=ABI)


async def test_under_an_alarm_tending_raises_nothing_and_the_next_send_says_why(
    serve, reader_of, tmp_path: Path
) -> None:
    path = tmp_path / "journal.json"
    servers, sender = await start(serve, reader_of, journal_path=path)
    with trio.fail_after(10):
        await sender.send("one", CONTRACT, b"", until=TxState.INCLUDED)
    if sender.status()[0]["state"] == "final":
        path.write_text(path.read_text().replace('"final"', '"pending"'))
    again = TransactionSender(sender.reader, KEY, journal_path=path, abi=ABI, policy=POLICY)
    for server in servers:
        server.chain.fork = "other"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.tend)
            while again.reader.alarm is None:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(FinalityAlarm):
            await again.send("one", CONTRACT, b"")


async def test_what_nobody_waits_for_is_brought_to_its_end_and_back_after_a_reorganisation(
    serve, reader_of
) -> None:
    servers, sender = await start(serve, reader_of, policy=TENDING)
    for server in servers:
        server.chain.finalized = 10  # the block of the transaction is 11
    with trio.fail_after(10):
        await sender.send("one", CONTRACT, b"", until=TxState.INCLUDED)
    assert sender.status()[0]["state"] == "included"
    receipts = [server.chain.methods["eth_getTransactionReceipt"] for server in servers]
    sent = [server.chain.methods["eth_sendRawTransaction"] for server in servers]
    again = trio.Event()
    for server, receipt, send in zip(servers, receipts, sent, strict=True):
        methods = server.chain.methods
        methods["eth_getTransactionReceipt"] = None  # its block is gone

        def resent(params: list[str], methods=methods, receipt=receipt, send=send) -> str:
            methods["eth_getTransactionReceipt"] = receipt
            again.set()
            return send(params)

        methods["eth_sendRawTransaction"] = resent
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.tend)
        with trio.fail_after(10):
            await again.wait()
            for server in servers:
                server.chain.finalized = 12
            while sender.status()[0]["state"] != "final":
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_revert_counts_when_it_is_final_and_not_before(serve, reader_of) -> None:
    servers, sender = await start(serve, reader_of)
    receipts = [server.chain.methods["eth_getTransactionReceipt"] for server in servers]
    for server, plain in zip(servers, receipts, strict=True):
        server.chain.finalized = 10

        def reverted(params: list[str], plain=plain) -> object:
            other = "0x" + "77" * 32  # a block that will not last
            return (found := plain(params)) and {**found, "status": "0x0", "blockHash": other}

        server.chain.methods["eth_getTransactionReceipt"] = reverted
    async with trio.open_nursery() as nursery:
        outcomes = []

        async def send() -> None:
            outcomes.append(await sender.send("one", CONTRACT, b""))

        nursery.start_soon(send)
        with trio.fail_after(10):
            while not sender.status() or "not final" not in sender.status()[0]["reason"]:
                await trio.sleep(0.01)
            assert sender.status()[0]["state"] == "pending"
            # On the other branch the same bytes succeed.
            for server, plain in zip(servers, receipts, strict=True):
                server.chain.methods["eth_getTransactionReceipt"] = plain
                server.chain.finalized = 12
    assert [outcome.state for outcome in outcomes] == [TxState.FINAL]
    assert sender.status()[0]["reason"] == ""
