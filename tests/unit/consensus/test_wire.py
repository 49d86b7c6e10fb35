"""The encodings: round trips, pinned bytes, and nothing but WireError for anything else."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from clusters import CLUSTER_ID
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import codec, limits
from consensus.codec import make_block
from consensus.commands import (
    Barrier,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    TxnOp,
    contains,
    decode_command,
    encode_command,
)
from consensus.compact import compact_parts, read_compact_parts
from consensus.digests import block_hash
from consensus.errors import WireError
from consensus.types import (
    ZERO_HASH,
    Block,
    BootAck,
    BootCertificate,
    BootRequest,
    Certificate,
    Evidence,
    FinalHeader,
    Header,
    NextEpoch,
    Part,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
    raw_command_id,
)
from consensus.validators import Validator
from consensus.wire import (
    BlockReply,
    BlockRequest,
    BootRefused,
    Certificates,
    Commands,
    EvidenceMessage,
    Message,
    Probe,
    ProbeReply,
    ProposalMessage,
    Reminder,
    SyncReply,
    SyncRequest,
    VoteMessage,
    decode,
    encode,
)

SENDER = 3
u64 = st.integers(0, limits.U64_MAX)
i64 = st.integers(0, limits.I64_MAX)
hash32 = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=65, max_size=65)
views = st.builds(View, u64, u64)


@st.composite
def votes(draw: st.DrawFn) -> Vote:
    kind = draw(st.sampled_from(VoteKind))
    nullify = kind is VoteKind.NULLIFY
    block = ZERO_HASH if nullify else draw(hash32)
    reason = draw(st.integers(0, max(Reason))) if nullify else 0
    return Vote(kind, draw(u64), draw(views), SENDER, block, reason, draw(signatures))


@st.composite
def parts(draw: st.DrawFn) -> tuple[Part, ...]:
    seats = sorted(draw(st.sets(u64, max_size=5)))
    return tuple(Part(s, draw(st.integers(0, max(Reason))), draw(signatures)) for s in seats)


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    kind = draw(st.sampled_from(VoteKind))
    block = ZERO_HASH if kind is VoteKind.NULLIFY else draw(hash32)
    return Certificate(kind, draw(u64), draw(views), block, draw(parts()))


keys = st.binary(min_size=1, max_size=40)
ends = st.binary(max_size=40)
leases = st.integers(1, limits.I64_MAX)
ttls = st.integers(limits.LEASE_TTL_MS_MIN, limits.LEASE_TTL_MS_MAX)
puts = st.builds(Put, keys, st.binary(max_size=60), st.just(0) | leases)
deletes = st.builds(Delete, keys, ends)
reads = st.builds(Range, keys, ends, st.integers(0, limits.RANGE_KEYS_MAX))
comparisons = st.one_of(
    st.builds(
        Compare,
        keys,
        st.sampled_from([t for t in Target if t is not Target.VALUE]),
        st.sampled_from(Relation),
        u64,
    ),
    st.builds(
        Compare, keys, st.just(Target.VALUE), st.sampled_from(Relation), st.binary(max_size=60)
    ),
)


def _writes_once(branch: tuple[TxnOp, ...]) -> bool:
    written = [op.key for op in branch if isinstance(op, Put)]
    deleted = [op for op in branch if isinstance(op, Delete)]
    return len(written) == len(set(written)) and not any(
        contains(op.key, op.end, key) for op in deleted for key in written
    )


branches = st.lists(puts | deletes | reads, max_size=4).map(tuple).filter(_writes_once)
actions = st.one_of(
    puts,
    deletes,
    st.just(Barrier()),
    st.builds(Txn, st.lists(comparisons, max_size=3).map(tuple), branches, branches),
    st.builds(Grant, leases, ttls),
    st.builds(KeepAlive, leases),
    st.builds(Revoke, leases),
)


@st.composite
def commands(draw: st.DrawFn) -> bytes:
    client = draw(st.binary(min_size=16, max_size=16))
    return encode_command(Command(client, draw(i64), draw(actions)))


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    return Evidence(draw(votes()), draw(votes()))


@st.composite
def next_epochs(draw: st.DrawFn) -> NextEpoch:
    seats = sorted(draw(st.sets(u64, min_size=1, max_size=4)))
    validators = tuple(
        Validator(s, draw(st.integers(1, limits.WEIGHT_MAX)), b"\2" + i.to_bytes(32, "big"))
        for i, s in enumerate(seats)
    )
    return NextEpoch(draw(u64), draw(u64), draw(hash32), draw(hash32), draw(hash32), validators)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    return make_block(
        CLUSTER_ID,
        epoch=draw(u64),
        view=draw(views),
        proposer=draw(u64),
        height=draw(u64),
        parent=draw(hash32),
        time_ms=draw(u64),
        state_height=draw(u64),
        state_hash=draw(hash32),
        commands=tuple(draw(st.lists(commands(), max_size=4))),
        nullifications=tuple(draw(st.lists(certificates(), max_size=3))),
        evidence=tuple(draw(st.lists(evidence(), max_size=2))),
        next_epoch=draw(st.none() | next_epochs()),
    )


requests = st.builds(BootRequest, u64, u64, hash32, signatures)
headers = blocks().map(lambda b: b.header)
messages = st.one_of(
    st.builds(
        ProposalMessage,
        u64,
        st.builds(Proposal, blocks(), st.none() | certificates(), signatures),
    ),
    st.builds(VoteMessage, u64, votes()),
    st.builds(Certificates, st.lists(certificates(), max_size=3).map(tuple)),
    st.builds(Commands, st.lists(commands(), max_size=4).map(tuple)),
    st.builds(BlockRequest, hash32),
    st.builds(BlockReply, blocks()),
    st.builds(SyncRequest, u64, st.integers(0, limits.SYNC_BLOCKS_MAX)),
    st.builds(
        SyncReply,
        st.lists(blocks(), max_size=3).map(tuple),
        st.lists(headers, max_size=3).map(tuple),
        certificates(),
        st.none() | st.builds(FinalHeader, headers, certificates()),
    ),
    requests,
    st.builds(BootRefused, requests),
    st.builds(
        BootAck,
        st.just(SENDER),
        u64,
        hash32,
        signatures,
        u64,
        st.none() | votes(),
        st.none() | certificates(),
    ),
    st.builds(BootCertificate, u64, u64, hash32, parts()),
    st.builds(EvidenceMessage, st.lists(evidence(), max_size=3).map(tuple)),
    st.builds(Probe, st.binary(min_size=16, max_size=16)),
    st.builds(
        ProbeReply,
        st.binary(min_size=16, max_size=16),
        u64,
        u64,
        views,
        u64,
        u64,
        u64,
        signatures,
    ),
    st.builds(Reminder, commands()),
)


@settings(max_examples=150)
@given(messages)
def test_every_message_survives_the_wire_unchanged(message: Message) -> None:
    data = encode(message)
    assert decode(data, SENDER, CLUSTER_ID) == message
    assert encode(decode(data, SENDER, CLUSTER_ID)) == data


@settings(max_examples=100)
@given(blocks(), certificates(), votes(), requests, commands())
def test_every_stored_value_survives_the_disk_unchanged(
    block: Block, certificate: Certificate, vote: Vote, request: BootRequest, raw: bytes
) -> None:
    assert codec.decode_block(codec.encode_block(block), CLUSTER_ID) == block
    assert codec.decode_certificate(codec.encode_certificate(certificate)) == certificate
    assert codec.decode_vote(codec.encode_vote(vote), SENDER) == vote
    assert codec.decode_boot_request(codec.encode_boot_request(request)) == request
    command = decode_command(raw)
    assert encode_command(command) == raw
    assert raw_command_id(raw) == command.id


@settings(max_examples=400)
@given(st.binary(max_size=300))
def test_random_bytes_give_a_wire_error(data: bytes) -> None:
    for decoder in (
        lambda: decode(data, SENDER, CLUSTER_ID),
        lambda: codec.decode_block(data, CLUSTER_ID),
        lambda: codec.decode_certificate(data),
        lambda: codec.decode_vote(data, SENDER),
        lambda: codec.decode_boot_request(data),
        lambda: decode_command(data),
    ):
        with suppress(WireError):
            decoder()


@settings(max_examples=300)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=5)
        | st.binary(max_size=70),
        lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=25,
    ),
    st.integers(0, 17),
)
def test_any_well_formed_msgpack_gives_a_message_or_a_wire_error(body: object, kind: int) -> None:
    shaped = body if isinstance(body, list) else [body]
    for value in (body, [2, kind, *shaped], [2, kind, shaped], [2, kind, 1, *shaped]):
        with suppress(WireError):
            decode(msgpack.packb(value), SENDER, CLUSTER_ID)


@settings(max_examples=150)
@given(messages, st.randoms(use_true_random=False))
def test_spoilt_messages_give_a_message_or_a_wire_error(
    message: Message, rng: random.Random
) -> None:
    data = encode(message)
    for _ in range(10):
        spoilt = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        cut = bytes(data[: rng.randrange(len(data))])
        for hostile in (bytes(spoilt), cut, data + b"\0"):
            try:
                decoded = decode(hostile, SENDER, CLUSTER_ID)
            except WireError:
                continue
            encode(decoded)
    with pytest.raises(WireError):
        decode(cut, SENDER, CLUSTER_ID)


def _sample(seed: int) -> list[Message]:
    """One message of each type from a simple generator that never changes."""
    rng = random.Random(seed)

    def h() -> bytes:
        return rng.randbytes(32)

    view = View(rng.randrange(1000), rng.randrange(1000))
    members = tuple(Part(i, 0, rng.randbytes(65)) for i in range(1, 4))
    notarization = Certificate(VoteKind.NOTARIZE, 1, view, h(), members)
    nullification = Certificate(VoteKind.NULLIFY, 1, view, ZERO_HASH, members)
    raws = tuple(
        encode_command(Command(rng.randbytes(16), i, Put(b"key", rng.randbytes(20))))
        for i in range(3)
    )
    lease = 2**40 + seed
    put = Put(b"key", b"leased", lease)
    txn = Txn(
        (
            Compare(b"k", Target.VALUE, Relation.LESS, b"abc"),
            Compare(b"k", Target.MOD, Relation.EQUAL, 7),
        ),
        (put, Delete(b"a", b"b"), Range(b"a", b"\0", 3)),
        (Range(b"a"),),
    )
    actions = (put, Delete(b"k"), Barrier(), txn, Grant(lease, 9000), KeepAlive(lease))
    raws += tuple(
        encode_command(Command(bytes(16), i, action))
        for i, action in enumerate((*actions, Revoke(lease)))
    )
    vote = Vote(VoteKind.NULLIFY, 1, view, SENDER, ZERO_HASH, 2, rng.randbytes(65))
    block = make_block(
        CLUSTER_ID,
        epoch=1,
        view=view,
        proposer=3,
        height=7,
        parent=h(),
        time_ms=1_700_000_000_000,
        state_height=5,
        state_hash=h(),
        commands=raws,
        nullifications=(nullification,),
        evidence=(Evidence(vote, vote._replace(reason=3)),),
        next_epoch=NextEpoch(
            2, 99, h(), h(), h(), (Validator(1, 5, rng.randbytes(33)), Validator(2, 1, bytes(33)))
        ),
    )
    request = BootRequest(3, 9, h(), rng.randbytes(65))
    final = replace(notarization, kind=VoteKind.FINALIZE)
    return [
        ProposalMessage(9, Proposal(block, notarization, rng.randbytes(65))),
        VoteMessage(9, vote),
        Certificates((notarization, nullification)),
        Commands(raws),
        BlockRequest(h()),
        BlockReply(block),
        SyncRequest(12, 34),
        SyncReply((block,), (block.header,), final, FinalHeader(block.header, final)),
        request,
        BootAck(3, 9, h(), rng.randbytes(65), 5, vote, final),
        BootRefused(request),
        BootCertificate(3, 9, h(), members),
        EvidenceMessage((Evidence(vote, vote._replace(reason=3)),)),
        Probe(h()[:16]),
        ProbeReply(h()[:16], 9, 1, view, 7, 99, 1_700_000_000_000, rng.randbytes(65)),
        Reminder(raws[0]),
    ]


def test_a_vote_belongs_to_its_sender() -> None:
    vote = _sample(1)[1]
    assert isinstance(vote, VoteMessage)
    decoded = decode(encode(vote), 7, CLUSTER_ID)
    assert isinstance(decoded, VoteMessage)
    assert decoded.vote.seat == 7


def _fields(message: Message) -> list:
    return msgpack.unpackb(encode(message))


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("another version", lambda m: [1, *m[1:]]),
        ("a version that is True", lambda m: [True, *m[1:]]),
        ("a type that does not exist", lambda m: [2, 99, *m[2:]]),
        ("a type that is no integer", lambda m: [2, 2.0, *m[2:]]),
        ("a field too many", lambda m: [*m, 0]),
        ("a field too few", lambda m: m[:-1]),
        ("a negative number", lambda m: [2, 2, -1, m[3]]),
        ("True for a number", lambda m: [2, 2, True, m[3]]),
        ("an unknown reason", lambda m: [2, 2, m[2], [*m[3][:5], 200, m[3][6]]]),
        ("a vote of kind 0", lambda m: [2, 2, m[2], [0, *m[3][1:]]]),
        ("a vote of kind 4", lambda m: [2, 2, m[2], [4, *m[3][1:]]]),
        ("a nullify vote with a block", lambda m: [2, 2, m[2], [*m[3][:4], bytes(32), *m[3][5:]]]),
        (
            "a notarize vote with a reason",
            lambda m: [2, 2, m[2], [1, *m[3][1:4], bytes(32), 3, m[3][6]]],
        ),
        ("a short signature", lambda m: [2, 2, m[2], [*m[3][:6], bytes(64)]]),
        ("text for bytes", lambda m: [2, 2, m[2], [*m[3][:6], "a" * 65]]),
        ("a map", lambda m: {1: 2}),
    ],
)
def test_a_vote_message_is_refused_with(what: str, spoil) -> None:
    with pytest.raises(WireError):
        decode(msgpack.packb(spoil(_fields(_sample(1)[1]))), SENDER, CLUSTER_ID)


def test_parts_out_of_order_or_twice_are_refused() -> None:
    message = _sample(1)[2]
    assert isinstance(message, Certificates)
    first = message.certificates[0]
    for seats in ((2, 1, 3), (1, 1, 2)):
        shuffled = tuple(Part(s, 0, bytes(65)) for s in seats)
        with pytest.raises(WireError):
            decode(encode(Certificates((replace(first, parts=shuffled),))), SENDER, CLUSTER_ID)


def test_a_reason_that_the_contract_does_not_know_is_in_no_certificate() -> None:
    """Members would agree on the end of a term that nobody can show to the contract."""
    message = _sample(1)[2]
    assert isinstance(message, Certificates)
    first = message.certificates[0]
    odd = replace(first, parts=(Part(1, max(Reason) + 1, bytes(64) + b"\x1b"),))
    with pytest.raises(WireError):
        decode(encode(Certificates((odd,))), SENDER, CLUSTER_ID)
    with pytest.raises(WireError):
        read_compact_parts(compact_parts(odd.parts))


def test_a_body_that_its_header_does_not_cover_is_refused() -> None:
    message = _sample(1)[5]
    assert isinstance(message, BlockReply)
    block = message.block
    body = codec.pack_body(block.commands[:1], ())
    with pytest.raises(WireError, match="body"):
        decode(encode(BlockReply(replace(block, body=body))), SENDER, CLUSTER_ID)


def test_a_block_hash_covers_every_header_field() -> None:
    message = _sample(1)[5]
    assert isinstance(message, BlockReply)
    header = message.block.header
    changes = {
        "epoch": 2,
        "view": View(1, 1),
        "proposer": 4,
        "height": 8,
        "parent": bytes(32),
        "time_ms": 1,
        "body_hash": bytes(32),
        "state_height": 1,
        "state_hash": bytes(32),
    }
    assert set(changes) == set(Header.__dataclass_fields__)
    changed = [replace(header, **{name: value}) for name, value in changes.items()]
    hashes = {block_hash(CLUSTER_ID, h) for h in [header, *changed]}
    hashes.add(block_hash(bytes(32), header))
    assert len(hashes) == len(changes) + 2


def test_sizes_are_bounded() -> None:
    with pytest.raises(WireError):
        decode(bytes(limits.MESSAGE_BYTES_MAX + 1), SENDER, CLUSTER_ID)
    client = bytes(16)
    for key, value in (
        (b"k" * (limits.KEY_BYTES_MAX + 1), b""),
        (b"k", b"v" * (limits.VALUE_BYTES_MAX + 1)),
        (b"", b""),
    ):
        with pytest.raises(WireError):
            decode_command(encode_command(Command(client, 1, Put(key, value))))
    many = (encode_command(Command(client, 1, Barrier())),)
    with pytest.raises(WireError):
        decode(encode(Commands(many * (limits.BLOCK_COMMANDS_MAX + 1))), SENDER, CLUSTER_ID)
    decode(encode(Commands(many * limits.BLOCK_COMMANDS_MAX)), SENDER, CLUSTER_ID)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        decode(b"\x91" * 100_000 + b"\x00", SENDER, CLUSTER_ID)
