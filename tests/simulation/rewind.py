"""Puts a graph of objects back to how it was, in place: much cheaper than another copy of it.

What is found from the root when it is taken: instances with their attributes, and lists, dicts,
sets and deques with their contents. Frozen values stay as they are. What play makes and puts in the
place of something old is dropped. A kind of object that is not known is refused, not passed over.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from types import (
    BuiltinMethodType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
)
from typing import Any

_ATOMS = (int, float, str, bytes, Enum, type, type(None))
_CODE = (FunctionType, MethodType, BuiltinMethodType)  # a method's object is reached by its name


class Rewind:
    """The state of everything that is reached from ``make()``, and the way back to it.

    ``make`` is called twice: attributes of an instance are read without asking for its
    ``__dict__``, which would make each later access slower, so their names come from a double.
    """

    def __init__(self, make: Callable[[], Any], frozen: tuple[type, ...] = ()) -> None:
        self._atoms = (*_ATOMS, *_CODE, *frozen)
        self._instances: list[tuple[Any, str, Any]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        self._others: list[tuple[Any, Any]] = []  # containers with clear and update or extend
        self._seen: set[int] = set()
        self._names: dict[type, dict[str, None]] = {}
        self._walk(make(), self._learn)
        self._seen.clear()
        self.root = make()
        self._walk(self.root, self._keep)

    def restore(self) -> Any:
        """Everything as it was; returns the root."""
        for instance, name, value in self._instances:
            setattr(instance, name, value)
        for found, content in self._lists:
            found[:] = content
        for found, content in self._others:
            if found or content:
                found.clear()
                (found.extend if isinstance(found, deque) else found.update)(content)
        return self.root

    def _walk(self, root: Any, visit: Callable[[Any], Iterable[Any]]) -> None:
        left = [root]
        while left:
            value = left.pop()
            if isinstance(value, self._atoms) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if isinstance(value, tuple | frozenset):
                left += value
            elif dataclasses.is_dataclass(value) and _is_frozen(value):
                left += (getattr(value, f.name) for f in dataclasses.fields(value))
            else:
                left += visit(value)

    def _learn(self, value: Any) -> Iterable[Any]:
        if isinstance(value, list | set | deque):
            return tuple(value)
        if isinstance(value, dict):
            return (*value, *value.values())
        names = self._names.setdefault(type(value), {})
        names.update(dict.fromkeys(getattr(value, "__dict__", ())))
        for kind in type(value).__mro__:  # slots, and the attributes of a compiled class
            names.update((n, None) for n, d in vars(kind).items() if _is_attribute(value, n, d))
        if not names:
            raise TypeError(f"how to rewind a {type(value)}?")
        return tuple(getattr(value, name) for name in names if hasattr(value, name))

    def _keep(self, value: Any) -> Iterable[Any]:
        if isinstance(value, list):
            self._lists.append((value, value.copy()))
        elif isinstance(value, dict | set | deque):
            self._others.append((value, value.copy()))
        else:
            found = {n: getattr(value, n) for n in self._names[type(value)] if hasattr(value, n)}
            self._instances += ((value, name, kept) for name, kept in found.items())
            return found.values()
        return (*value, *value.values()) if isinstance(value, dict) else tuple(value)


def _is_attribute(value: Any, name: str, descriptor: object) -> bool:
    if not isinstance(descriptor, MemberDescriptorType | GetSetDescriptorType):
        return False
    if name.startswith("__") or not hasattr(value, name):
        return False
    try:
        setattr(value, name, getattr(value, name))
    except AttributeError:  # a compiled property
        return False
    return True


def _is_frozen(value: Any) -> bool:
    return bool(value.__dataclass_params__.frozen)
