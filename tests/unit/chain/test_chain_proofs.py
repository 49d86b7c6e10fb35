"""Proofs of state against tries that an independent implementation built, and against forgers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trie import HexaryTrie

from chain import rlp
from chain.errors import BadChainData
from chain.headers import header, header_rlp
from chain.keys import keccak256
from chain.proofs import EMPTY_ROOT, NODES_MAX, BadProof, prove, proven_account

ADDRESS = bytes(range(20))
# Short keys out of few nibbles: ways fork late, end inside others, and small nodes lie in parents.
KEYS = st.lists(st.sampled_from([0x00, 0x01, 0x10, 0x11, 0xFF]), min_size=2, max_size=2).map(bytes)
TRIES = st.dictionaries(KEYS, st.binary(min_size=1, max_size=40), max_size=12)


def built(content: dict[bytes, bytes]) -> HexaryTrie:
    trie = HexaryTrie({})
    for key, value in content.items():
        trie[key] = value
    return trie


def proof_of(trie: HexaryTrie, key: bytes) -> list[bytes]:
    """As a node gives it: those of 32 bytes and more, each found by its hash in its parent."""
    nodes = [rlp.encode(list(node)) for node in trie.get_proof(key)]
    return [node for i, node in enumerate(nodes) if i == 0 or len(node) >= 32]


@given(TRIES, KEYS)
def test_whatever_an_independent_trie_holds_or_lacks_is_proven(
    content: dict[bytes, bytes], key: bytes
) -> None:
    trie = built(content)
    assert prove(trie.root_hash, key, proof_of(trie, key)) == content.get(key)


@given(TRIES, KEYS)
def test_a_client_that_lists_small_nodes_once_more_is_taken(
    content: dict[bytes, bytes], key: bytes
) -> None:
    trie = built(content)
    nodes = [rlp.encode(list(node)) for node in trie.get_proof(key)]
    assert prove(trie.root_hash, key, nodes) == content.get(key)


@given(TRIES, KEYS, st.data())
def test_a_proof_that_was_tampered_with_proves_nothing_false(
    content: dict[bytes, bytes], key: bytes, data: st.DataObject
) -> None:
    """Whatever is done to it, it is refused or still proves the truth."""
    trie = built(content)
    nodes = proof_of(trie, key)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(nodes)))
        kind = data.draw(st.sampled_from(["drop", "add", "flip", "swap"]))
        if kind == "add" or at >= len(nodes):
            nodes.insert(at, data.draw(st.binary(max_size=40)))
        elif kind == "drop":
            del nodes[at]
        elif kind == "flip":
            place = data.draw(st.integers(0, len(nodes[at]) - 1)) if nodes[at] else 0
            nodes[at] = nodes[at][:place] + b"\x5a" + nodes[at][place + 1 :]
        else:
            nodes.reverse()
    with suppress(BadChainData):
        assert prove(trie.root_hash, key, nodes) == content.get(key)


@given(st.binary(max_size=80))
def test_rlp_has_one_form_only(raw: bytes) -> None:
    try:
        item = rlp.decode(raw)
    except BadChainData:
        return
    assert rlp.encode(item) == raw


ITEMS = st.recursive(
    st.binary(max_size=70), lambda inner: st.lists(inner, max_size=5), max_leaves=9
)


@given(ITEMS)
def test_rlp_decodes_to_what_was_encoded(item: Any) -> None:
    assert rlp.decode(rlp.encode(item)) == item


@pytest.mark.parametrize(
    "raw",
    ["", "81", "8100", "817f", "b801aa", "b90001", "b9003800", "c1", "c281", "c3820102ff", "f800",
     "c0" + "00", "bf" + "ff" * 8, "c1" * 20 + "c0"],
)  # fmt: skip
def test_rlp_of_another_form_is_refused(raw: str) -> None:
    with pytest.raises(BadChainData):
        rlp.decode(bytes.fromhex(raw))


# ---------------------------------------------------------------------- accounts


def hexed(nodes: list[bytes]) -> list[str]:
    return ["0x" + node.hex() for node in nodes]


def account(words: dict[int, int], *others: bytes) -> tuple[bytes, HexaryTrie, HexaryTrie]:
    """The state root, the state and the storage of a chain with this contract on it."""
    storage = built(
        {keccak256(n.to_bytes(32, "big")): rlp.encode(word) for n, word in words.items() if word}
    )
    leaf = rlp.encode([1, 2, storage.root_hash, keccak256(b"code")])
    state = built({keccak256(ADDRESS): leaf} | {keccak256(o): rlp.encode(o) for o in others})
    return state.root_hash, state, storage


def answer(state: HexaryTrie, storage: HexaryTrie, slots: list[int]) -> dict[str, Any]:
    return {
        "address": "0x" + "ff" * 20,
        "balance": "0x0",
        "codeHash": "0x" + "00" * 32,
        "accountProof": hexed(proof_of(state, keccak256(ADDRESS))),
        "storageProof": [
            {
                "key": hex(slot),
                "value": "0xbad",
                "proof": hexed(proof_of(storage, keccak256(slot.to_bytes(32, "big")))),
            }
            for slot in slots
        ],
    }


@given(
    st.dictionaries(st.integers(0, 40), st.integers(0, 2**256 - 1), max_size=20),
    st.lists(st.integers(0, 45), max_size=5),
    st.lists(st.binary(min_size=20, max_size=20), max_size=5),
)
def test_words_and_code_hash_of_a_contract_are_proven_whatever_the_answer_claims(
    words: dict[int, int], slots: list[int], others: list[bytes]
) -> None:
    root, state, storage = account(words, *(o for o in others if o != ADDRESS))
    found = proven_account(
        answer(state, storage, slots), state_root=root, address=ADDRESS, slots=slots
    )
    assert found is not None
    assert found.slots == tuple(words.get(slot, 0) for slot in slots)
    assert found.code_hash == keccak256(b"code")
    assert found.storage_root == storage.root_hash


@pytest.mark.parametrize(
    ("leaf", "word"), [(b"", 0), (b"\x01", 1), (b"\xff" * 32, 2**256 - 1), (b"\0", None),
                       (b"\0\x01", None), (b"\x01" * 33, None), ([b"\x01"], None)],
)  # fmt: skip
def test_a_word_is_a_number_of_at_most_32_bytes_and_zero_may_have_a_leaf(
    leaf: Any, word: int | None
) -> None:
    storage = built({keccak256(bytes(32)): rlp.encode(leaf)})
    state = built({keccak256(ADDRESS): rlp.encode([1, 2, storage.root_hash, keccak256(b"code")])})
    shown = answer(state, storage, [0])
    if word is None:
        with pytest.raises(BadProof, match="not a number"):
            proven_account(shown, state_root=state.root_hash, address=ADDRESS, slots=[0])
        return
    found = proven_account(shown, state_root=state.root_hash, address=ADDRESS, slots=[0])
    assert found is not None and found.slots == (word,)


def test_an_account_that_is_not_there_is_proven_absent() -> None:
    _, state, storage = account({})
    gone = built({keccak256(b"another"): rlp.encode([1])})
    assert proven_account(
        answer(gone, storage, []), state_root=gone.root_hash, address=ADDRESS, slots=[]
    ) is None  # fmt: skip
    assert prove(EMPTY_ROOT, b"key", []) is None and state is not None
    with pytest.raises(BadProof, match="breaks off after 0"):
        prove(keccak256(b"some root"), b"key", [])


def refusals() -> list[tuple[str, Any]]:
    words = {n: n + 1 for n in range(20)}

    def change(answer: dict[str, Any], do: Any) -> dict[str, Any]:
        do(answer)
        return answer

    def forge(a: dict[str, Any]) -> None:
        nodes = a["storageProof"][0]["proof"]
        nodes[-1] = nodes[-1][:-2] + "77"

    def cut(a: dict[str, Any]) -> None:
        a["storageProof"][0]["proof"].pop()

    def pad(a: dict[str, Any]) -> None:
        nodes = a["storageProof"][0]["proof"]
        nodes.append(nodes[-1])

    def other_word(a: dict[str, Any]) -> None:
        a["storageProof"][0] = a["storageProof"][1]

    def none(a: dict[str, Any]) -> None:
        a["storageProof"] = []

    def many(a: dict[str, Any]) -> None:
        a["accountProof"] = ["0x"] * (NODES_MAX + 1)

    def long(a: dict[str, Any]) -> None:
        a["accountProof"][0] = "0x" + "00" * 2000

    def words_only(a: dict[str, Any]) -> None:
        a["accountProof"] = a["storageProof"][0]["proof"]

    _, state, storage = account(words, b"x" * 20)
    return [
        (text, change(answer(state, storage, [3, 4]), do))
        for text, do in (
            ("does not have the hash", forge),
            ("breaks off after", cut),
            ("of which the way takes", pad),
            ("does not have the hash|of which the way takes|breaks off", other_word),
            ("without proofs of 2 words", none),
            ("at most 65 nodes", many),
            ("more than 1024 bytes", long),
            ("does not have the hash", words_only),
        )
    ] + [("not an object", None), ("not an array", {})]


@pytest.mark.parametrize(("text", "value"), refusals())
def test_a_proof_that_does_not_prove_says_why(text: str, value: Any) -> None:
    root, _, _ = account({n: n + 1 for n in range(20)}, b"x" * 20)
    with pytest.raises(BadChainData, match=text):
        proven_account(value, state_root=root, address=ADDRESS, slots=[3, 4])


# ---------------------------------------------------------------------- headers

# Block 1 of the Ethereum main network: the fields that every fork has, and a hash that all know.
FIRST = {
    "parentHash": "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3",
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x05a56e2d52c817161883f50c441c3228cfe54d9f",
    "stateRoot": "0xd67e4d450343046425ae4271474353857ab860dbc0a1dde64b41b5cd3a532bf3",
    "transactionsRoot": "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
    "receiptsRoot": "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421",
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x3ff800000",
    "number": "0x1",
    "gasLimit": "0x1388",
    "gasUsed": "0x0",
    "timestamp": "0x55ba4224",
    "extraData": "0x476574682f76312e302e302f6c696e75782f676f312e342e32",
    "mixHash": "0x969b900de27b6ac6a67742365dd65f55a0526c41fd18e1b16f1a1215c2e66f59",
    "nonce": "0x539bd4979fef1ec4",
    "hash": "0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6",
}
FORKS = {
    "baseFeePerGas": "0x7",
    "withdrawalsRoot": "0x" + "11" * 32,
    "blobGasUsed": "0x0",
    "excessBlobGas": "0x1",
    "parentBeaconBlockRoot": "0x" + "22" * 32,
    "requestsHash": "0x" + "33" * 32,
    "blockAccessListHash": "0x" + "44" * 32,
    "slotNumber": "0x9",
}


def test_a_header_that_hashes_to_its_name_is_sealed() -> None:
    found = header(FIRST)
    assert found.sealed and found.state_root.hex().startswith("d67e4d45")
    assert (found.number, found.time_s) == (1, 0x55BA4224)


@pytest.mark.parametrize("count", range(len(FORKS) + 1))
def test_the_fields_of_every_fork_are_part_of_the_header(count: int) -> None:
    block = FIRST | dict(list(FORKS.items())[:count])
    raw = header_rlp(block)
    decoded = rlp.decode(raw)
    assert isinstance(decoded, list) and len(decoded) == 15 + count
    assert header(block | {"hash": "0x" + keccak256(raw).hex()}).sealed


@pytest.mark.parametrize("name", [name for name in FIRST if name != "hash"])
def test_a_header_with_any_field_changed_is_not_sealed(name: str) -> None:
    value = FIRST[name]
    found = header(FIRST | {name: value[:-1] + ("1" if value[-1] != "1" else "2")})
    assert not found.sealed and found.state_root == b""


def test_a_header_with_a_gap_between_forks_or_unknown_fields_is_not_sealed() -> None:
    with pytest.raises(BadChainData, match="earlier"):
        header_rlp(FIRST | {"requestsHash": FORKS["requestsHash"]})
    assert not header(FIRST | {"requestsHash": FORKS["requestsHash"]}).sealed
    assert not header({k: v for k, v in FIRST.items() if k != "gasLimit"}).sealed
    assert not header(FIRST | {"extraData": "0x" + "00" * 2000}).sealed
