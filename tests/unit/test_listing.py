# SPDX-License-Identifier: Apache-2.0
"""Keystone's hints, beside what Keystone's SQL drivers make of them."""

from __future__ import annotations

import copy
import unicodedata

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from keystone.common import sql
from keystone.common.driver_hints import Hints
from sqlalchemy import orm

from keystone_cassandra_token.compat import listing

ATTRIBUTES = ('id', 'name', 'note', 'enabled')


class Base(orm.DeclarativeBase):
    """Apart from Keystone's tables."""


class Thing(Base):
    __tablename__ = 'thing'
    attributes = ATTRIBUTES
    id = sqlalchemy.Column(sqlalchemy.String(64), primary_key=True)
    name = sqlalchemy.Column(sqlalchemy.String(64))
    note = sqlalchemy.Column(sqlalchemy.Text())
    enabled = sqlalchemy.Column(sqlalchemy.Boolean())


@pytest.fixture(scope='module')
def engine():
    engine = sqlalchemy.create_engine('sqlite://')
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


# Few letters, so that filters match; without % and _, which SQL takes for
# wildcards.
TEXT = st.text('aAbB ', max_size=4)
THINGS = st.lists(
    st.fixed_dictionaries(
        {
            'id': st.text('abcd', min_size=1, max_size=3),
            'name': TEXT,
            'note': st.none() | TEXT,
            'enabled': st.none() | st.booleans(),
        }
    ),
    unique_by=lambda thing: thing['id'],
    max_size=8,
)
COMPARATORS = ('equals', 'contains', 'startswith', 'endswith', 'unknown')
FILTERS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                'name': st.sampled_from(['id', 'name', 'note', 'other']),
                'value': TEXT,
                'comparator': st.sampled_from(COMPARATORS),
                'case_sensitive': st.booleans(),
            }
        ),
        st.fixed_dictionaries(
            {
                'name': st.just('enabled'),
                'value': st.sampled_from(
                    [True, False, 'true', 'False', '0', '1', 'no', 'x']
                ),
                'comparator': st.just('equals'),
                'case_sensitive': st.booleans(),
            }
        ),
    ),
    max_size=3,
)


def make_hints(filters, limit=None) -> Hints:
    hints = Hints()
    for entry in filters:
        hints.add_filter(**entry)
    if limit is not None:
        hints.set_limit(limit)
    return hints


def state(hints: Hints):
    return hints.filters, hints.limit


@settings(max_examples=150, deadline=None)
@given(things=THINGS, filters=FILTERS, limit=st.none() | st.integers(1, 9))
def test_hints_are_satisfied_as_by_the_sql_drivers(
    engine, things, filters, limit
) -> None:
    theirs = make_hints(filters, limit)
    ours = copy.deepcopy(theirs)
    with orm.Session(engine) as session:
        session.add_all(Thing(**thing) for thing in things)
        session.flush()
        query = session.query(Thing).order_by(Thing.id)
        expected = [
            {name: getattr(thing, name) for name in ATTRIBUTES}
            for thing in sql.filter_limit_query(Thing, query, theirs)
        ]
        session.rollback()
    ordered = sorted(things, key=lambda thing: thing['id'])
    found = listing.limit(
        listing.filter_by_hints(ordered, ours, ATTRIBUTES, 'sensitive'), ours
    )
    assert found == expected
    assert state(ours) == state(theirs)


ALICE = {'id': '1', 'name': 'Alice', 'enabled': True}
BOB = {'id': '2', 'name': 'Bob', 'enabled': False}
CAROL = {'id': '3', 'name': 'Carol', 'enabled': True, 'note': None}
ALL = [ALICE, BOB, CAROL]


def satisfied(hints, comparison='insensitive'):
    return listing.filter_by_hints(ALL, hints, ATTRIBUTES, comparison)


@pytest.mark.parametrize(
    ('name', 'comparator', 'value', 'expected'),
    [
        ('name', 'equals', 'Alice', [ALICE]),
        ('name', 'contains', 'o', [BOB, CAROL]),
        ('name', 'contains', 'O', [BOB, CAROL]),
        ('name', 'startswith', 'c', [CAROL]),
        ('name', 'endswith', 'B', [BOB]),
        ('name', 'contains', '', ALL),
        ('note', 'contains', '', []),
        ('note', 'equals', 'x', []),
        ('enabled', 'equals', True, [ALICE, CAROL]),
        ('enabled', 'equals', 'false', [BOB]),
    ],
)
def test_a_known_filter_is_satisfied_and_removed(
    name, comparator, value, expected
) -> None:
    hints = Hints()
    hints.add_filter(name, value, comparator)
    assert satisfied(hints) == expected
    assert hints.filters == []


@pytest.mark.parametrize(
    ('comparison', 'expected'),
    [('insensitive', [ALICE]), ('sensitive', [])],
)
def test_equality_of_names_is_the_keyspaces(comparison, expected) -> None:
    hints = Hints()
    hints.add_filter('name', 'aLICE')
    assert satisfied(hints, comparison) == expected


@pytest.mark.parametrize(
    'entry',
    [
        {'name': 'colour', 'value': 'red'},
        {'name': 'name', 'value': 'A', 'comparator': 'sounds_like'},
        {
            'name': 'name',
            'value': 'A',
            'comparator': 'contains',
            'case_sensitive': True,
        },
    ],
)
def test_what_is_not_known_is_left_to_keystone(entry) -> None:
    hints = Hints()
    hints.add_filter(**entry)
    hints.add_filter('id', '2')
    hints.set_limit(1)
    before = dict(hints.filters[0])
    assert satisfied(hints) == [BOB]
    assert hints.filters == [before]
    # Keystone filters further: the list must not be cut before.
    assert listing.limit(ALL, hints) == ALL
    assert hints.limit == {'limit': 1, 'truncated': False}


def test_without_hints_all_pass() -> None:
    assert satisfied(None) == ALL
    assert listing.limit(ALL, None) == ALL
    assert listing.limit(ALL, Hints()) == ALL


@pytest.mark.parametrize(
    ('limit', 'length', 'truncated'),
    [(1, 1, True), (2, 2, True), (3, 3, False), (4, 3, False)],
)
def test_limit_notes_whether_it_cut(limit, length, truncated) -> None:
    hints = make_hints([], limit)
    assert listing.limit(ALL, hints) == ALL[:length]
    assert hints.limit == {'limit': limit, 'truncated': truncated}


@pytest.mark.parametrize('in_order', [True, False])
@pytest.mark.parametrize(('limit', 'full'), [(2, True), (3, True), (4, False)])
def test_a_page_is_by_id_and_says_when_it_is_full(
    limit, full, in_order
) -> None:
    hints = make_hints([], limit)
    given = ALL if in_order else [CAROL, ALICE, BOB]
    assert listing.page(hints, iter(given), in_order) == ALL[:limit]
    assert hints.limit == {'limit': limit, 'truncated': full}


def test_a_page_takes_no_more_than_it_shows() -> None:
    source = iter(ALL)
    assert listing.page(make_hints([], 1), source, True) == [ALICE]
    assert list(source) == [BOB, CAROL]


@given(st.text())
def test_insensitive_names_are_nfc_of_casefold_of_nfc(name) -> None:
    normal = unicodedata.normalize('NFC', name)
    assert listing.fold(name, 'insensitive') == unicodedata.normalize(
        'NFC', normal.casefold()
    )
    assert listing.fold(name, 'sensitive') == normal


@given(st.text(), st.sampled_from(['insensitive', 'sensitive']))
def test_composed_and_decomposed_names_are_one(name, comparison) -> None:
    apart = unicodedata.normalize('NFD', name)
    assert listing.fold(apart, comparison) == listing.fold(name, comparison)


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        ('Demo', 'dEMO', True),
        ('STRASSE', 'straße', True),
        ('É', 'e\u0301', True),
        ('é', 'e', False),
        ('demo', 'demo ', False),
        ('demo', ' demo', False),
        ('I', '\u0131', False),  # dotless i
        ('\uff21', 'A', False),  # full width: NFC keeps it, NFKC would not
    ],
)
def test_which_names_are_one(one, other, same) -> None:
    folded = [listing.fold(name, 'insensitive') for name in (one, other)]
    assert (folded[0] == folded[1]) is same


def test_sensitive_names_keep_their_case() -> None:
    assert listing.fold('Demo', 'sensitive') == 'Demo'
