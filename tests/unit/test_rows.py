# SPDX-License-Identifier: Apache-2.0
"""Rows and their columns."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.rows import (
    Column,
    Row,
    any_text,
    boolean,
    json_map,
    json_text,
    micros,
    number,
    plain,
    text,
    text_list,
)

#: Integers of more bits are refused.
NUMBERS = st.integers(-(2**63), 2**64 - 1)

TIMES = st.datetimes(
    min_value=datetime.datetime(1970, 1, 1),
    max_value=datetime.datetime(9999, 12, 31),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)
VALUES = st.fixed_dictionaries(
    {
        'id': st.none() | st.text(),
        'count': st.none() | NUMBERS,
        'at': st.none() | TIMES,
        'names': st.none() | st.lists(st.text(), max_size=4),
        'extra': st.none() | JSON,
    }
)
ROW = Row(id=text, count=plain, at=micros, names=text_list, extra=json_text)


@given(VALUES)
def test_what_is_dumped_is_loaded_again(values) -> None:
    stored = ROW.dump(values)
    assert stored.keys() == values.keys()
    assert ROW.load(stored) == values


@given(VALUES)
def test_none_stays_none_and_nothing_else_becomes_it(values) -> None:
    stored = ROW.dump(values)
    assert {n for n, v in stored.items() if v is None} == {
        n for n, v in values.items() if v is None
    }


@given(TIMES)
def test_times_are_stored_as_microseconds(time) -> None:
    stored = micros.encode(time)
    assert isinstance(stored, int)
    assert stored % 10**6 == time.microsecond
    assert micros.decode(stored) == time


def test_empty_values_are_not_none() -> None:
    stored = ROW.dump({'names': [], 'extra': {}, 'id': '', 'count': 0})
    assert stored == {
        'id': '',
        'count': 0,
        'at': None,
        'names': [],
        'extra': '{}',
    }
    assert ROW.load(stored)['names'] == []


def test_lists_read_are_lists() -> None:
    # The driver gives a tuple or another sequence for a frozen list.
    assert type(ROW.load({'names': ('a',)})['names']) is list
    assert text_list.encode(('a', 'b')) == ['a', 'b']


@given(st.dictionaries(st.text(), NUMBERS, min_size=2))
def test_equal_values_have_equal_json(value) -> None:
    backwards = dict(reversed(value.items()))
    assert json_text.encode(value) == json_text.encode(backwards)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match='no such columns: idd, nam'):
        ROW.dump({'id': '1', 'nam': 'x', 'idd': 'y'})


def test_a_column_that_was_not_read_stays_away() -> None:
    assert ROW.load({'id': '1'}) == {'id': '1'}


def test_loading_leaves_the_stored_row_alone() -> None:
    stored = {'at': 1}
    ROW.load(stored)
    assert stored == {'at': 1}


def test_text_of_a_row() -> None:
    row = Row('id', 'name', at=micros)
    assert tuple(row.columns) == ('id', 'name', 'at')
    assert str(row) == 'id, name, at'
    assert row.markers == ':id, :name, :at'


def test_plain_is_the_same_object() -> None:
    value = object()
    assert plain.encode(value) is value
    assert plain.decode(value) is value


def test_a_column_says_what_is_refused() -> None:
    assert text == plain == Column()
    short = text(4, required=True)
    assert (short.length, short.required, short.secret) == (4, True, False)
    assert text(required=True).length is None
    assert text(64, secret=True).secret
    # It is stored as what it was made of.
    assert number(required=True).encode(10.0) == 10
    assert json_map(required=True).is_map
    assert json_map(required=True).decode is json_map.decode


def test_a_row_knows_what_is_required_and_what_is_no_map() -> None:
    row = Row(
        'incarnation',
        id=text(64),
        name=text(4, required=True),
        enabled=boolean(required=True),
        extra=json_map,
    )
    assert row.required == ('name', 'enabled')
    assert row.attributes == ('incarnation', 'id', 'name', 'enabled')
    assert row.columns['name'].length == 4


def test_two_rows_are_one() -> None:
    row = Row(id=text(64), at=micros) | Row('seen', at=number)
    assert tuple(row.columns) == ('id', 'at', 'seen')
    assert row.columns['id'].length == 64
    assert row.encode({'at': 10.0}) == {'at': 10}
    assert row.load({'at': 10}) == {'at': 10}


def test_any_text_is_text() -> None:
    row = Row(legacy_id=any_text(64))
    assert row.encode({'legacy_id': 5}) == {'legacy_id': '5'}
    assert row.load({'legacy_id': '5'}) == {'legacy_id': '5'}


def test_a_part_keeps_its_columns() -> None:
    whole = Row('id', 'secret', name=text(4), extra=json_map)
    part = whole.part(['extra', 'name'])
    assert tuple(part.columns) == ('extra', 'name')
    assert part.columns['name'].length == 4
    stored = part.dump({'name': 'x', 'extra': {'a': 1}})
    assert stored == {'name': 'x', 'extra': {'a': '1'}}
    assert part.load(stored)['extra'] == {'a': 1}
    with pytest.raises(KeyError):
        whole.part(['absent'])


@pytest.mark.parametrize(
    'value',
    [
        'a\ud800',
        10**30,
        -(2**63) - 1,
        ['\udfff'],
        {'a\ud800': 1},
        {'a': [2**64]},
    ],
    ids=ascii,
)
def test_json_that_no_answer_can_have_is_refused(value) -> None:
    with pytest.raises(errors.ValueRefused):
        json_text.encode(value)
    with pytest.raises(errors.ValueRefused):
        json_map.encode({'a': value})


@pytest.mark.parametrize(
    'value',
    ['\U0001f600', r'\ud800', 2**64 - 1, -(2**63), '1' * 30, 1e30, True, None],
    ids=ascii,
)
def test_json_that_looks_like_it_is_stored(value) -> None:
    assert json_text.decode(json_text.encode([value])) == [value]
