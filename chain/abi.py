"""The contract's interface as its artifact states it: selectors, topics, readable errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain.abi_types import AbiValueError, Source, types_of
from chain.errors import BadChainData, CallReverted, ChainConfigError
from chain.keys import keccak256
from chain.rpc import printable

_ERROR_STRING = keccak256(b"Error(string)")[:4]
_PANIC = keccak256(b"Panic(uint256)")[:4]
REVERT_BYTES_MAX = 4096


class FunctionAbi:
    """One function: encodes its calls and decodes its results (text in them comes as bytes)."""

    __slots__ = ("_inputs", "_outputs", "argument_names", "name", "selector")

    def __init__(self, entry: dict[str, Any]) -> None:
        self.name: str = entry["name"]
        self.argument_names = tuple(
            item["name"] or f"argument{index}" for index, item in enumerate(entry["inputs"])
        )
        self._inputs = [type_text(item) for item in entry["inputs"]]
        self._outputs = [_foreign(type_text(item)) for item in entry["outputs"]]
        self.selector = keccak256(f"{self.name}({','.join(self._inputs)})".encode())[:4]

    def encode(self, *values: Any) -> bytes:
        """Call data of a call with these arguments (structs as tuples).

        Raises:
            ValueError: an argument does not fit its type.
        """
        return self.selector + encode(self._inputs, values)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """The results in the data a call returned.

        Raises:
            BadChainData: it does not decode.
        """
        return decode(self._outputs, data, f"the result of {self.name}()")


class EventAbi:
    """One event: its topic and how a log of it reads."""

    __slots__ = ("_indexed", "_plain", "name", "topic")

    def __init__(self, entry: dict[str, Any]) -> None:
        self.name: str = entry["name"]
        inputs = [(item["name"], type_text(item), item["indexed"]) for item in entry["inputs"]]
        self._indexed = [(name, kind) for name, kind, indexed in inputs if indexed]
        self._plain = [(name, _foreign(kind)) for name, kind, indexed in inputs if not indexed]
        self.topic = keccak256(f"{self.name}({','.join(k for _, k, _ in inputs)})".encode())

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
        """The fields of a log by name.

        Raises:
            BadChainData: it is not a log of this event.
        """
        what = f"a log of {self.name}"
        if len(topics) != 1 + len(self._indexed) or topics[0] != self.topic:
            raise BadChainData(f"the topics are not those of {what}")
        fields = {
            name: decode([kind], topic, what)[0]
            for (name, kind), topic in zip(self._indexed, topics[1:], strict=True)
        }
        values = decode([kind for _, kind in self._plain], data, what)
        fields.update(zip((name for name, _ in self._plain), values, strict=True))
        return fields


class ContractAbi:
    """All functions, events and errors of one contract.

    Args:
        abi: the "abi" array of the artifact. Overloaded functions keep the one with most arguments.

    Raises:
        ChainConfigError: not an ABI.
    """

    def __init__(self, abi: Sequence[dict[str, Any]]) -> None:
        self._functions: dict[str, FunctionAbi] = {}
        self._events: dict[str, EventAbi] = {}
        self._errors: dict[bytes, tuple[str, list[str]]] = {}
        self.constructor_types: list[str] = []
        try:
            for entry in sorted(abi, key=lambda entry: len(entry.get("inputs", ()))):
                kind = entry["type"]
                if kind == "function":
                    self._functions[entry["name"]] = FunctionAbi(entry)
                elif kind == "event":
                    self._events[entry["name"]] = EventAbi(entry)
                elif kind == "error":
                    types = [type_text(item) for item in entry["inputs"]]
                    selector = keccak256(f"{entry['name']}({','.join(types)})".encode())[:4]
                    self._errors[selector] = (entry["name"], types)
                elif kind == "constructor":
                    self.constructor_types = [type_text(item) for item in entry["inputs"]]
        except (KeyError, TypeError, AttributeError):
            raise ChainConfigError("the artifact's ABI is malformed") from None

    def function(self, name: str) -> FunctionAbi:
        """The function of that name; ChainConfigError when the contract has none."""
        try:
            return self._functions[name]
        except KeyError:
            raise ChainConfigError(f"the contract has no function {name}") from None

    def event(self, name: str) -> EventAbi:
        """The event of that name; ChainConfigError when the contract has none."""
        try:
            return self._events[name]
        except KeyError:
            raise ChainConfigError(f"the contract has no event {name}") from None

    def reverted(self, data: bytes) -> CallReverted:
        """The exception for revert data, with the custom error and its arguments readable."""
        name, text = self._error_text(data[:REVERT_BYTES_MAX])
        return CallReverted(name, text, data[:REVERT_BYTES_MAX])

    def _error_text(self, data: bytes) -> tuple[str, str]:
        if not data:
            return "unknown", "no reason given"
        selector, body = data[:4], data[4:]
        try:
            if selector == _ERROR_STRING:
                text = decode(["bytes"], body, "an error")[0].decode("latin-1")
                return "Error", printable(text)
            if selector == _PANIC:
                return "Panic", f"Panic(0x{decode(['uint256'], body, 'an error')[0]:x})"
            name, types = self._errors[selector]
            values = decode([_foreign(kind) for kind in types], body, "an error")
        except (KeyError, BadChainData):
            return "unknown", f"unknown error 0x{data[:36].hex()}"
        shown = ", ".join(
            "0x" + value.hex() if isinstance(value, bytes) else printable(str(value))
            for value in values
        )
        return name, f"{name}({shown})"


def type_text(item: dict[str, Any]) -> str:
    """The canonical type of an ABI entry, tuples spelled out: ``(uint256,string)[]``."""
    kind = item["type"]
    if not isinstance(kind, str):
        raise TypeError
    if kind.startswith("tuple"):
        return "(" + ",".join(type_text(part) for part in item["components"]) + ")" + kind[5:]
    return kind


def _foreign(kind: str) -> str:
    """The type to decode foreign data with: one text that is not UTF-8 must not spoil the rest."""
    return kind.replace("string", "bytes")


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """ABI encoding of values; ValueError when one does not fit."""
    try:
        return types_of(tuple(types)).encode(tuple(values))
    except ValueError as error:  # without the values
        raise ValueError(f"arguments do not fit ({','.join(types)}): {error}") from None


def decode(types: Sequence[str], data: bytes, what: str) -> tuple[Any, ...]:
    """Values of ABI-encoded data; BadChainData names ``what`` when it does not decode."""
    try:
        return types_of(tuple(types)).decode(Source(data), 0)
    except ValueError as error:  # also UnicodeDecodeError, which would show bytes of a stranger's
        said = error if isinstance(error, AbiValueError) else "text that is not UTF-8"
        raise BadChainData(f"{what} does not decode: {said}") from None
