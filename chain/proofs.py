"""What a block's state root proves about one account: ``eth_getProof``, checked.

Theory of operation. State and storage are Merkle-Patricia tries: a node is named by its hash, the
root's is in the block header, and each step down a key's nibbles names the next. So whoever holds
the root can take the nodes on the way to a key from a stranger: a forged one has another hash, a
withheld one breaks the way off, one too many was never asked for. A way that ends before the key
does is proof that there is nothing under it. Keys are hashed before use, so ways are short and
nobody chooses them.

Sources: yellow paper appendix D, EIP-1186 (the answer's form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chain import decoding, rlp
from chain.errors import BadChainData
from chain.keys import keccak256

NODES_MAX = 65  # one per nibble of a 32-byte key, and the root
NODE_BYTES_MAX = 1024  # a branch has at most 16 hashes and one value
EMPTY_ROOT = keccak256(b"\x80")
_BRANCH_ITEMS = 17


class BadProof(BadChainData):
    """A proof does not prove anything about its key."""


@dataclass(frozen=True, slots=True)
class ProvenAccount:
    """A contract at a block; ``slots`` are the storage words that were asked for, in order.

    ``storage_root`` (32 bytes) changes with any word of the storage: the same root at a later
    block says that nothing in the contract has changed.
    """

    storage_root: bytes
    code_hash: bytes
    slots: tuple[int, ...]


def proven_account(
    value: Any, *, state_root: bytes, address: bytes, slots: Sequence[int]
) -> ProvenAccount | None:
    """Checks an answer of ``eth_getProof``; what it merely claims is not looked at.

    Args:
        value: the call's result.
        state_root: of the block, from a sealed header.
        address: 20 bytes.
        slots: the storage keys that were asked for.

    Returns:
        None when the account is proven not to exist.

    Raises:
        BadProof: it proves nothing of what was asked.
        BadChainData: it is not an answer to that question at all.
    """
    answer = decoding.fields_of(value, "an account proof")
    leaf = prove(state_root, keccak256(address), _nodes(answer.get("accountProof")))
    if leaf is None:
        return None
    account = rlp.decode(leaf)
    if not isinstance(account, list) or len(account) != 4:
        raise BadProof("the proven account is not a list of 4")
    storage_root, code_hash = _hash(account[2]), _hash(account[3])
    proofs = answer.get("storageProof")
    if not isinstance(proofs, list) or len(proofs) != len(slots):
        raise BadChainData(f"an account proof without proofs of {len(slots)} words")
    words = []
    for slot, item in zip(slots, proofs, strict=True):
        nodes = _nodes(decoding.fields_of(item, "a storage proof").get("proof"))
        words.append(_word(prove(storage_root, keccak256(slot.to_bytes(32, "big")), nodes)))
    return ProvenAccount(storage_root, code_hash, tuple(words))


def prove(root: bytes, key: bytes, nodes: Sequence[bytes]) -> bytes | None:
    """What a trie holds under a key, None when it is proven to hold nothing there.

    Args:
        root: hash of the root node.
        key: the key as the trie has it, hashed already.
        nodes: RLP of the nodes from the root down. A node of less than 32 bytes lies inside its
            parent; some clients list it once more, which is taken.

    Raises:
        BadProof: a node is forged, missing, superfluous or malformed.
    """
    if root == EMPTY_ROOT and list(nodes) in ([], [b"\x80"]):
        return None
    path = [nibble for byte in key for nibble in (byte >> 4, byte & 15)]
    at = used = 0
    reference: rlp.Item = root
    while True:
        node, used = _open(reference, nodes, used)
        found, at, below = _step(node, path, at)
        if below is None:
            break
        reference = below
    if used != len(nodes):
        raise BadProof(f"a proof of {len(nodes)} nodes, of which the way takes {used}")
    return found


def _open(reference: rlp.Item, nodes: Sequence[bytes], used: int) -> tuple[list[rlp.Item], int]:
    """The node that a reference means, and how many of the given ones are used up by then."""
    if isinstance(reference, list):
        inner = rlp.encode(reference)
        if len(inner) >= 32:
            raise BadProof(f"a node of {len(inner)} bytes inside another")
        return reference, used + (used < len(nodes) and nodes[used] == inner)
    if used >= len(nodes):
        raise BadProof(f"a proof that breaks off after {used} nodes")
    raw = nodes[used]
    if keccak256(raw) != reference:
        raise BadProof(f"node {used} of a proof does not have the hash its parent names")
    node = rlp.decode(raw)
    if not isinstance(node, list):
        raise BadProof(f"node {used} of a proof is not a list")
    return node, used + 1


def _step(
    node: list[rlp.Item], path: Sequence[int], at: int
) -> tuple[bytes | None, int, rlp.Item | None]:
    """One node: the value that ends the way, where in the path it leads, and to which node."""
    if len(node) == _BRANCH_ITEMS:
        if at == len(path):
            return _value(node[16]) or None, at, None
        child = node[path[at]]
        if child == b"":
            return None, at, None
        return None, at + 1, _reference(child)
    if len(node) != 2 or not isinstance(node[0], bytes):
        raise BadProof(f"a trie node of {len(node)} items")
    piece, is_leaf = _unpacked(node[0])
    fits = list(path[at : at + len(piece)]) == piece
    if is_leaf:
        value = _value(node[1])
        if not value:
            raise BadProof("a leaf without a value")
        return (value if fits and at + len(piece) == len(path) else None), at, None
    if not piece:
        raise BadProof("an extension that extends nothing")
    if not fits:
        return None, at, None
    return None, at + len(piece), _reference(node[1])


def _unpacked(packed: bytes) -> tuple[list[int], bool]:
    """The nibbles of a hex-prefix form, and whether they end in a leaf."""
    nibbles = [nibble for byte in packed for nibble in (byte >> 4, byte & 15)]
    if not nibbles or nibbles[0] > 3 or (nibbles[0] % 2 == 0 and nibbles[1] != 0):
        raise BadProof("a trie node whose path is not packed as it must be")
    return nibbles[2 - nibbles[0] % 2 :], nibbles[0] >= 2


def _reference(item: rlp.Item) -> rlp.Item:
    if isinstance(item, list) or len(item) == 32:
        return item
    raise BadProof(f"a reference of {len(item)} bytes to a trie node")


def _value(item: rlp.Item) -> bytes:
    if isinstance(item, list):
        raise BadProof("a list where a trie node has its value")
    return item


def _word(leaf: bytes | None) -> int:
    if leaf is None:
        return 0
    value = rlp.decode(leaf)
    # A word of zero has no leaf, but anvil keeps one that became zero.
    if not isinstance(value, bytes) or len(value) > 32 or value[:1] == b"\0":
        raise BadProof("a storage word that is not a number of at most 32 bytes")
    return int.from_bytes(value, "big")


def _hash(item: rlp.Item) -> bytes:
    if isinstance(item, list) or len(item) != 32:
        raise BadProof("the proven account lacks its storage root or code hash")
    return item


def _nodes(value: Any) -> list[bytes]:
    if not isinstance(value, list) or len(value) > NODES_MAX:
        raise BadChainData(f"a proof is not an array of at most {NODES_MAX} nodes")
    nodes = [decoding.data(item) for item in value]
    if any(len(node) > NODE_BYTES_MAX for node in nodes):
        raise BadChainData(f"a trie node has more than {NODE_BYTES_MAX} bytes")
    return nodes
