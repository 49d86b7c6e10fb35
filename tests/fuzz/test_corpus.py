"""Every input that ever reached new code, and every one that once broke a promise, again."""

from __future__ import annotations

import pytest

from tests.fuzz import corpora
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_corpus_breaks_no_promise(name: str) -> None:
    inputs = [*corpora.load(name), *TARGETS[name].seeds()]
    assert inputs
    for data in inputs:
        try:
            TARGETS[name].run(data)
        except Exception as error:
            raise AssertionError(f"input {data.hex()}: {error!r}") from error
