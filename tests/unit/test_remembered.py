# SPDX-License-Identifier: Apache-2.0
"""What a client's request has read, so that it reads nothing twice."""

import flask
import pytest

from keystone_cassandra_token.db import attempts, remembered, rows
from tests import statements

READ = ('statement', b'key')


class Answer:
    """What the Python driver answers, a page or all."""

    def __init__(self, rows, has_more_pages=False):
        self._rows = rows
        self.has_more_pages = has_more_pages

    def result(self):
        return self

    def __iter__(self):
        return iter(self._rows)


class Cassandra:
    """Counts the reads, each of which finds another row."""

    def __init__(self, **answer):
        self.asked = 0
        self.answer = answer

    def __call__(self):
        self.asked += 1
        return Answer([{'value': self.asked}], **self.answer)


@pytest.fixture
def asked():
    return Cassandra()


@pytest.fixture
def reads():
    return remembered.Reads()


def found(reads, asked, read=READ):
    return list(reads.answer(read, asked).result())


def test_it_is_read_once(reads, asked):
    assert found(reads, asked) == found(reads, asked) == [{'value': 1}]
    assert reads.get(READ) == [{'value': 1}]
    assert found(reads, asked, ('statement', b'other')) == [{'value': 2}]


def test_nothing_was_found_is_kept_too(reads):
    assert list(reads.answer(READ, lambda: Answer([])).result()) == []
    assert found(reads, None) == []


def test_it_is_read_again_once_it_is_forgotten(reads, asked):
    found(reads, asked)
    reads.forget()
    assert reads.get(READ) is None
    assert found(reads, asked) == [{'value': 2}]


def test_what_was_on_its_way_is_not_kept(reads, asked):
    """It may have been read before the write that lets all be forgotten."""
    answer = reads.answer(READ, asked)
    reads.forget()
    assert list(answer.result()) == [{'value': 1}]
    assert found(reads, asked) == [{'value': 2}]


def test_a_page_of_more_is_not_kept(reads):
    asked = Cassandra(has_more_pages=True)
    assert found(reads, asked) != found(reads, asked)


def test_many_rows_are_not_kept(reads, monkeypatch):
    asked = Cassandra()
    monkeypatch.setattr(remembered, 'LONGEST', 0)
    assert found(reads, asked) != found(reads, asked)


def test_the_last_reads_are_kept(reads, asked, monkeypatch):
    monkeypatch.setattr(remembered, 'MOST', 2)
    for number in range(3):
        found(reads, asked, number)
    assert [reads.get(number) is None for number in range(3)] == [
        True,
        False,
        False,
    ]


def test_without_a_request_nothing_is_remembered():
    assert remembered.current() is None
    remembered.forget()


def test_a_request_of_the_filter():
    with remembered.within_request():
        first = remembered.current()
        assert remembered.current() is first
        # What Flask does is a part of it.
        with flask.Flask('keystone').test_request_context():
            assert remembered.current() is first
    with remembered.within_request():
        assert remembered.current() not in (None, first)
    assert remembered.current() is None


def test_a_request_without_the_filter():
    app = flask.Flask('keystone')
    with app.test_request_context():
        first = remembered.current()
        assert first is not None
        assert remembered.current() is first
    with app.test_request_context():
        assert remembered.current() is not first


def test_another_attempt_reads_again(asked):
    with remembered.within_request():
        tries = attempts.Attempts('user', 'id')
        tries.another()
        found(remembered.current(), asked)
        tries.another()
        assert remembered.current().get(READ) is None


def test_a_driver_gets_lists_and_maps_of_its_own():
    """It may change them; what is kept is what was stored."""
    shared = [
        f'{row}: {name}'
        for module in statements.modules()
        for row in vars(module).values()
        if isinstance(row, rows.Row)
        for name, column in row.columns.items()
        if column.is_map and column.decode is rows.plain.decode
    ]
    assert not shared
