"""Recursive length prefix: how Ethereum writes transactions, headers and trie nodes.

Source: yellow paper, appendix B. Decoding takes the one canonical form only, so that two different
texts never hash to what one value stands for.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.errors import BadChainData

DEPTH_MAX = 16

Item = bytes | list["Item"]


def encode(item: object) -> bytes:
    """The form of bytes, non-negative integers and sequences of such."""
    if isinstance(item, int):
        return encode(item.to_bytes((item.bit_length() + 7) // 8, "big"))
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(len(item), 0x80) + item
    if isinstance(item, Sequence):
        body = b"".join(encode(part) for part in item)
        return _prefix(len(body), 0xC0) + body
    raise TypeError(f"no RLP of {type(item).__name__}")


def decode(raw: bytes) -> Item:
    """The bytes or nested lists that a form stands for.

    Raises:
        BadChainData: not canonical, cut short, or followed by more.
    """
    item, end = _item(raw, 0, DEPTH_MAX)
    if end != len(raw):
        raise BadChainData(f"RLP of {end} bytes with {len(raw) - end} more after it")
    return item


def _prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(size)]) + size


def _item(raw: bytes, at: int, depth: int) -> tuple[Item, int]:
    """The item that starts at a place, and where it ends."""
    if at >= len(raw):
        raise BadChainData("RLP is cut short")
    first = raw[at]
    if first < 0x80:
        return raw[at : at + 1], at + 1
    if first < 0xC0:
        start, end = _body(raw, at, first - 0x80)
        if end - start == 1 and raw[start] < 0x80:
            raise BadChainData("RLP with a prefix where none belongs")
        return raw[start:end], end
    if depth == 0:
        raise BadChainData(f"RLP nested deeper than {DEPTH_MAX}")
    start, end = _body(raw, at, first - 0xC0)
    items: list[Item] = []
    while start < end:
        item, start = _item(raw, start, depth - 1)
        items.append(item)
    if start != end:
        raise BadChainData("RLP whose last item is longer than its list")
    return items, end


def _body(raw: bytes, at: int, code: int) -> tuple[int, int]:
    """Where the body of an item lies; ``code`` is its first byte without the kind."""
    start, length = at + 1, code
    if code > 55:
        start += code - 55
        size = raw[at + 1 : start]
        length = int.from_bytes(size, "big")
        if not size or size[0] == 0 or length < 56:
            raise BadChainData("RLP with a longer length than it needs")
    if start + length > len(raw):
        raise BadChainData("RLP is cut short")
    return start, start + length
