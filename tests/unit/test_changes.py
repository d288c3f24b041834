# SPDX-License-Identifier: Apache-2.0
"""Who is told of a change, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keystone_cassandra_token.db import changes, errors

KEY = {'id': '1'}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    monkeypatch.setattr(changes, 'tell', lambda _, *what: found.append(what))
    return found


def fails(error: Exception) -> Callable[[], bool]:
    def change() -> bool:
        raise error

    return change


@pytest.mark.parametrize('made', [True, 'what it has become'])
def test_what_is_made_is_told(told: list[object], made: object) -> None:
    db: Any = None
    assert changes.telling(db, 'table', KEY, lambda: made) is made
    assert told == [('table', KEY)]


@pytest.mark.parametrize('made', [False, None])
def test_what_changes_nothing_is_not(told: list[object], made: object) -> None:
    db: Any = None
    assert changes.telling(db, 'table', KEY, lambda: made) is made
    assert told == []


@pytest.mark.parametrize('key', [None, {}])
def test_nor_is_what_nobody_remembers(
    told: list[object], key: dict[str, Any] | None
) -> None:
    db: Any = None
    assert changes.telling(db, 'table', key, lambda: True)
    assert told == []


def test_what_may_be_made_is_told(told: list[object]) -> None:
    db: Any = None
    with pytest.raises(errors.OutcomeUnknown):
        changes.telling(db, 'table', KEY, fails(errors.OutcomeUnknown('x')))
    assert told == [('table', KEY)]


def test_what_is_not_made_is_not(told: list[object]) -> None:
    db: Any = None
    with pytest.raises(errors.StoreUnavailable):
        changes.telling(db, 'table', KEY, fails(errors.StoreUnavailable('x')))
    assert told == []
