"""Types of the contract ABI and how their values lie in bytes (Solidity's ABI specification).

All types that contracts of this project have: ``uintN``, ``intN``, ``bool``, ``address``,
``bytesN``, ``bytes``, ``string``, arrays, and tuples of them. Decoding is strict: padding is zero,
numbers fit, and every byte is read at most once, as encoders write it. So a value is never larger
than the bytes it came in, whatever places in them a stranger's offsets point to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

WORD_BYTES = 32
DEPTH_MAX = 16  # of types in types
_ARRAY = re.compile(r"(.+)\[(\d{0,4})\]")
_NUMBER = re.compile(r"(u?int)(\d{1,3})")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_FIXED_BYTES = re.compile(r"bytes(\d{1,2})")


class AbiValueError(ValueError):
    """A value, or bytes, that are none of the type."""


class AbiType(Protocol):
    """``head_bytes``: how many it takes in place; None when an offset stands there instead."""

    head_bytes: int | None

    def encode(self, value: Any) -> bytes:
        """The bytes of a value. Raises AbiValueError."""
        ...

    def decode(self, source: Source, at: int) -> Any:
        """The value that lies at a position. Raises AbiValueError."""
        ...


class Source:
    """Foreign bytes, each of which may be read once."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data
        self._unread = len(data)

    def take(self, at: int, size: int) -> bytes:
        """Raises AbiValueError beyond the end, and when more was read than there is."""
        if at + size > self.size:
            raise AbiValueError(f"{size} bytes at {at} of {self.size}")
        self._unread -= size
        if self._unread < 0:
            raise AbiValueError("bytes are used more than once")
        return self._data[at : at + size]

    def number(self, at: int) -> int:
        """The word there, a length or an offset."""
        return int.from_bytes(self.take(at, WORD_BYTES), "big")


class Number:
    """``uintN`` and ``intN`` as int."""

    head_bytes: int | None = WORD_BYTES

    def __init__(self, bits: int, signed: bool) -> None:
        if not 8 <= bits <= 256 or bits % 8:
            raise AbiValueError(f"no number has {bits} bits")
        self._signed = signed
        self._lowest = -(1 << (bits - 1)) if signed else 0
        self._beyond = 1 << (bits - 1 if signed else bits)

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, int) or isinstance(value, bool):
            raise AbiValueError("no number")
        if not self._lowest <= value < self._beyond:
            raise AbiValueError("a number that does not fit")
        return value.to_bytes(WORD_BYTES, "big", signed=self._signed)

    def decode(self, source: Source, at: int) -> int:
        value = int.from_bytes(source.take(at, WORD_BYTES), "big", signed=self._signed)
        if not self._lowest <= value < self._beyond:
            raise AbiValueError("a number that does not fit")
        return value


class Bool:
    """``bool`` as bool."""

    head_bytes: int | None = WORD_BYTES

    def encode(self, value: Any) -> bytes:
        if type(value) is not bool:
            raise AbiValueError("neither true nor false")
        return value.to_bytes(WORD_BYTES, "big")

    def decode(self, source: Source, at: int) -> bool:
        value = source.number(at)
        if value > 1:
            raise AbiValueError("neither true nor false")
        return value == 1


class FixedBytes:
    """``bytesN`` as N bytes."""

    head_bytes: int | None = WORD_BYTES

    def __init__(self, size: int) -> None:
        if not 1 <= size <= WORD_BYTES:
            raise AbiValueError(f"no bytes{size}")
        self._size = size

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) != self._size:
            raise AbiValueError(f"not {self._size} bytes")
        return value.ljust(WORD_BYTES, b"\0")

    def decode(self, source: Source, at: int) -> bytes:
        word = source.take(at, WORD_BYTES)
        if any(word[self._size :]):
            raise AbiValueError("padding that is not zero")
        return word[: self._size]


class Address:
    """``address``: from 20 bytes or hex text; to hex text in lower case."""

    head_bytes: int | None = WORD_BYTES
    _SIZE = 20

    def encode(self, value: Any) -> bytes:
        if isinstance(value, str):
            value = bytes.fromhex(value[2:]) if _ADDRESS.fullmatch(value) else b""
        if not isinstance(value, bytes) or len(value) != self._SIZE:
            raise AbiValueError("no address")
        return value.rjust(WORD_BYTES, b"\0")

    def decode(self, source: Source, at: int) -> str:
        word = source.take(at, WORD_BYTES)
        if any(word[: -self._SIZE]):
            raise AbiValueError("padding that is not zero")
        return "0x" + word[-self._SIZE :].hex()


class Bytes:
    """``bytes`` as bytes, ``string`` as str."""

    head_bytes: int | None = None

    def __init__(self, text: bool) -> None:
        self._text = text

    def encode(self, value: Any) -> bytes:
        raw = value.encode() if self._text and isinstance(value, str) else value
        if not isinstance(raw, bytes) or isinstance(value, str) is not self._text:
            raise AbiValueError("no text" if self._text else "no bytes")
        return len(raw).to_bytes(WORD_BYTES, "big") + raw + bytes(-len(raw) % WORD_BYTES)

    def decode(self, source: Source, at: int) -> bytes | str:
        size = source.number(at)
        padded = source.take(at + WORD_BYTES, size + -size % WORD_BYTES)
        if any(padded[size:]):
            raise AbiValueError("padding that is not zero")
        return padded[:size].decode() if self._text else padded[:size]


class Tuple:
    """A struct, or all arguments of a call, as a tuple."""

    def __init__(self, parts: Sequence[AbiType]) -> None:
        self._parts = tuple(parts)
        self._heads = sum(part.head_bytes or WORD_BYTES for part in self._parts)
        is_fixed = all(part.head_bytes is not None for part in self._parts)
        self.head_bytes: int | None = self._heads if is_fixed else None

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, tuple | list) or len(value) != len(self._parts):
            raise AbiValueError(f"not {len(self._parts)} values")
        heads: list[bytes] = []
        tails: list[bytes] = []
        tail_at = self._heads
        for part, item in zip(self._parts, value, strict=True):
            encoded = part.encode(item)
            if part.head_bytes is None:
                heads.append(tail_at.to_bytes(WORD_BYTES, "big"))
                tails.append(encoded)
                tail_at += len(encoded)
            else:
                heads.append(encoded)
        return b"".join(heads + tails)

    def decode(self, source: Source, at: int) -> tuple[Any, ...]:
        values = []
        head_at = at
        for part in self._parts:
            if part.head_bytes is None:
                offset = source.number(head_at)
                if offset < self._heads:
                    raise AbiValueError("an offset into what stands before the values")
                values.append(part.decode(source, at + offset))
                head_at += WORD_BYTES
            else:
                values.append(part.decode(source, head_at))
                head_at += part.head_bytes
        return tuple(values)


class Array:
    """``T[]`` and ``T[k]`` as a tuple."""

    def __init__(self, item: AbiType, count: int | None) -> None:
        self._item = item
        self._count = count
        self._stride = item.head_bytes or WORD_BYTES
        is_fixed = count is not None and item.head_bytes is not None
        self.head_bytes: int | None = self._stride * (count or 0) if is_fixed else None

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, tuple | list) or self._count not in (None, len(value)):
            raise AbiValueError("no such array")
        items = Tuple([self._item] * len(value)).encode(value)
        return items if self._count is not None else len(value).to_bytes(WORD_BYTES, "big") + items

    def decode(self, source: Source, at: int) -> tuple[Any, ...]:
        count = self._count
        if count is None:
            count = source.number(at)
            at += WORD_BYTES
            if count * self._stride > source.size - at:
                raise AbiValueError("an array longer than all bytes")
        return Tuple([self._item] * count).decode(source, at)


@cache
def types_of(texts: tuple[str, ...]) -> Tuple:
    """All arguments or results by their canonical names, e.g. ``(uint256,string)[]``.

    Raises AbiValueError.
    """
    return Tuple([_type_of(text, DEPTH_MAX) for text in texts])


def _type_of(text: str, depth: int) -> AbiType:
    if depth == 0:
        raise AbiValueError("types in types in types")
    plain: dict[str, AbiType] = {
        "bool": Bool(),
        "address": Address(),
        "bytes": Bytes(text=False),
        "string": Bytes(text=True),
    }
    if text in plain:
        return plain[text]
    if array := _ARRAY.fullmatch(text):
        item = _type_of(array[1], depth - 1)
        count = int(array[2]) if array[2] else None
        # Any number of these would lie in no bytes at all.
        if count == 0 or item.head_bytes == 0:
            raise AbiValueError(f"nothing has the type {text}")
        return Array(item, count)
    if text != "()" and text.startswith("(") and text.endswith(")"):
        return Tuple([_type_of(part, depth - 1) for part in _parts(text[1:-1])])
    if number := _NUMBER.fullmatch(text):
        return Number(int(number[2]), number[1] == "int")
    if fixed := _FIXED_BYTES.fullmatch(text):
        return FixedBytes(int(fixed[1]))
    raise AbiValueError(f"an unknown type: {text[:80]}")


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no inner brackets."""
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth < 0:
                raise AbiValueError(f"an unknown type: {text[:80]}")
        elif character == "," and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]
