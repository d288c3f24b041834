# SPDX-License-Identifier: Apache-2.0
"""Entities with names: what they rely on, over all that have one."""

import datetime

import cassandra
import pytest

from keystone_cassandra_token.db import consistency, errors
from keystone_cassandra_token.tables import unique
from tests import entities
from tests.contract import damage
from tests.fault import faults


class Refused(Exception):
    """What was read meanwhile does not let it be changed."""


@pytest.fixture(params=damage.NAMED)
def case(request):
    return damage.case_of(request.param)


@pytest.fixture
def named(case):
    return damage.NAMED[case.maker]


@pytest.fixture
def made(store, case):
    """What makes an entity, which is there."""
    given = damage.fresh(*case.given)
    case.make(**given)
    return given


def names_of(store, named, given):
    """Return the specs and keys of the names of what was made."""
    found = named.entity.find(store, given['id'])
    return [
        (spec, key) for spec in named.specs for key in spec.keys(store, found)
    ]


def test_a_claim_of_two_attempts_outlives_what_one_made(
    store, case, named, made, monkeypatch
):
    """The other attempt may be in another region, and not have ended."""
    names = names_of(store, named, made)
    assert named.remove(store, made['id'])
    for spec, key in names:
        spec.claims.take(store, made['id'], key, None)
    case.make(**made)
    assert named.remove(store, made['id'])
    for spec, key in names:
        assert spec.claims.owner(store, **key) == made['id']
    # Nobody has the name, so another one gets it after the minute.
    other = made | damage.fresh('id')
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))
    case.make(**other)
    for spec, key in names_of(store, named, other):
        assert spec.claims.owner(store, **key) == other['id']


@pytest.mark.parametrize('case', entities.RENAMED, indirect=True)
def test_a_rename_that_is_given_up_is_never_made(store, case, named, made):
    """Lost with its second try, then refused; its new name is free again."""
    column = entities.RENAMED[case.maker]
    before = named.entity.find(store, made['id'])
    new = damage.fresh(column)
    late, asked = [], []

    def changes(now):
        asked.append(now)
        if len(asked) > 1:
            raise Refused
        return new

    def lose(statements, send):
        if named.entity.update in statements and len(late) < 2:
            late.append(send)
            raise cassandra.OperationTimedOut
        return send()

    with faults.intercepted(store, lose), pytest.raises(Refused):
        named.change(store, made['id'], changes)
    assert len(late) == 2
    for send in late:
        send().result()
    after = named.entity.find(store, made['id'])
    assert after[column] == before[column]
    assert named.remove(store, made['id'])


class NotWritten:
    """The answer to a write that the nodes did not take."""

    def result(self):
        raise cassandra.Unavailable(
            'no', required_replicas=1, alive_replicas=0
        )

    def add_callbacks(self, *_):
        pass


@pytest.mark.parametrize(
    'case',
    [name for name in damage.NAMED if [*damage.NAMED[name].entity.indexes]],
    indirect=True,
)
def test_nothing_is_made_without_its_index_rows(store, case, named):
    """They are written while its names are claimed, and waited for."""
    inserts = {
        each
        for index in named.entity.indexes
        for each in (index.insert, index.insert_expiring)
    }
    refused = []

    def refuse(statements, send):
        if not inserts & {*statements}:
            return send()
        refused.append(statements)
        return NotWritten()

    given = damage.fresh(*case.given)
    with (
        faults.intercepted(store, refuse),
        pytest.raises(errors.StoreUnavailable),
    ):
        case.make(**given)
    assert refused
    assert named.entity.find(store, given['id']) is None
    case.make(**given)  # nothing is in its way
    assert named.entity.find(store, given['id'])


@pytest.fixture
def wide(store):
    """What was sent that all datacenters agree on."""
    sent = []

    def note(statements, send):
        if statements[0].operation in consistency.WIDE:
            sent.append(statements)
        return send()

    with faults.intercepted(store, note):
        yield sent


def rounds(named):
    """Return how often regions agree on names, and on the entity itself."""
    names = sum(
        spec.claims.insert.operation in consistency.WIDE
        for spec in named.specs
    )
    return names, int(named.entity.everywhere)


def test_a_creation_and_a_deletion_are_agreed_on_once(
    store, case, named, wide
):
    """And twice where regions must agree on the entity as well."""
    given = damage.fresh(*case.given)
    case.make(**given)
    assert len(wide) == sum(rounds(named))
    wide.clear()
    assert named.remove(store, given['id'])
    assert len(wide) == sum(rounds(named))


@pytest.mark.parametrize('case', entities.RENAMED, indirect=True)
def test_a_rename_is_agreed_on_for_each_name(store, case, named, made, wide):
    """The old one and the new one, and the entity where regions must."""
    wide.clear()
    new = damage.fresh(entities.RENAMED[case.maker])
    assert named.change(store, made['id'], lambda now: new)
    names, own = rounds(named)
    assert len(wide) == 2 * names + own
