"""Secrets do not leave through printing, formatting, logging, pickling or copying."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback
from typing import Any

import pytest

from attest import NodeIdentity, SecretKey, compressed_to_xy
from attest.agent import AgentKey
from attest.keys import CURVE_ORDER

SECRET = bytes.fromhex("5ec2e7" + "a7" * 29)


def identity() -> NodeIdentity:
    return NodeIdentity(
        secret=SecretKey(SECRET),
        node_key=SecretKey(SECRET).public_key(),
        instance_id=b"\x01" * 20,
        app_id=b"\x02" * 20,
        scheme=0,
        purpose="purpose",
        app_signature=b"\x03" * 65,
        kms_signature=b"\x04" * 65,
        app_key=SecretKey(b"\x05" * 32).public_key(),
        root=b"\x06" * 20,
        root_epoch=1,
        compose_hash=b"",
    )


def holders() -> list[Any]:
    key = SecretKey(SECRET)
    return [key, identity(), AgentKey(key, key.public_key(), b"", b"")]


def leaks(text: str) -> bool:
    return any(
        form in text
        for form in (
            SECRET.hex(),
            SECRET.hex().upper(),
            repr(SECRET)[2:20],
            str(list(SECRET))[1:20],
        )
    )


@pytest.mark.parametrize("holder", holders(), ids=lambda h: type(h).__name__)
def test_no_way_of_printing_shows_the_secret(holder: Any) -> None:
    log = io.StringIO()
    logger = logging.Logger("t")
    logger.addHandler(logging.StreamHandler(log))
    logger.error("%s %r", holder, holder)
    texts = [repr(holder), str(holder), f"{holder}", ascii(holder), pprint.pformat(holder)]
    texts += [f"{holder!r:>5}", repr([holder]), log.getvalue()]
    if dataclasses.is_dataclass(holder):
        texts.append(repr(dataclasses.asdict(holder)))  # type: ignore[arg-type]
    with pytest.raises(TypeError) as caught:
        json.dumps(holder)
    texts += traceback.format_exception(caught.value)
    assert not any(leaks(text) for text in texts)


@pytest.mark.parametrize("holder", holders(), ids=lambda h: type(h).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_that_holds_a_secret_can_be_pickled(holder: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps(holder, protocol)


def test_copies_are_the_same_object_and_still_hidden() -> None:
    key = SecretKey(SECRET)
    assert copy.copy(key) is key
    assert copy.deepcopy(identity()) == identity()
    assert not leaks(repr(copy.deepcopy(identity())))


def test_secrets_compare_by_value() -> None:
    assert SecretKey(SECRET) == SecretKey(SECRET)
    assert SecretKey(SECRET) != SecretKey(b"\x01" * 32)
    assert SecretKey(SECRET) != SECRET
    assert len({SecretKey(SECRET), SecretKey(SECRET)}) == 1


@pytest.mark.parametrize(
    "bad",
    [b"", SECRET[:31], SECRET + b"\0", bytes(32), CURVE_ORDER.to_bytes(32, "big"), b"\xff" * 32],
)
def test_a_secret_outside_the_curve_is_refused_without_being_shown(bad: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        SecretKey(bad)
    assert not leaks(str(caught.value))
    assert bad.hex() not in str(caught.value) or not bad


def test_the_identity_is_frozen_and_gives_coordinates() -> None:
    mine = identity()
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine.scheme = 1  # type: ignore[misc]
    assert mine.node_key_xy() == compressed_to_xy(mine.node_key)
    x, y = mine.app_key_xy()
    assert mine.app_key == bytes([2 + (y[-1] & 1)]) + x
