# SPDX-License-Identifier: Apache-2.0
"""Reconciling what follows from base rows, damage by damage."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import signal
import subprocess
import uuid

import cassandra
import command
import pytest
from keystone import exception

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.db.rows import Row, text_list
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.drivers.assignment import grants
from keystone_cassandra_token.drivers.identity import id_mapping
from keystone_cassandra_token.tables import reconcile, unique
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from tests.contract import damage, lives
from tests.contract.damage import (
    ALL_DERIVED,
    HOUR,
    at_rest,
    case_of,
    fix,
    tables_of,
)
from tests.fault import faults

EVERY_CASE = pytest.mark.parametrize('case', damage.CASES, ids=str)


def each_table(pairs):
    pairs = list(pairs)
    return pytest.mark.parametrize(
        ('case', 'table'),
        pairs,
        ids=[f'{case}-{table.name}' for case, table in pairs],
    )


def moving(case, table):
    """Return the columns by which a base row's row could be a wrong one."""
    fixed = (*case.derived.key, 'shard', 'incarnation', 'settled')
    return [name for name in table.row.columns if name not in fixed]


EVERY_TABLE = each_table(damage.INDEX_TABLES)
VERSIONED = each_table(
    (case, table)
    for case, table in damage.INDEX_TABLES
    if 'incarnation' in table.row.columns
)
EVERY_CLAIM = pytest.mark.parametrize(
    ('case', 'spec'),
    damage.CLAIM_SPECS,
    ids=[f'{case}-{spec.claims.table}' for case, spec in damage.CLAIM_SPECS],
)
AGE = reconcile.YOUNG + datetime.timedelta(minutes=1)


def earlier(incarnation):
    """Return an incarnation of eleven minutes before."""
    then = incarnation.time - int(AGE.total_seconds()) * 10**7
    return uuid.UUID(
        fields=(
            then & 0xFFFFFFFF,
            then >> 32 & 0xFFFF,
            then >> 48 & 0x0FFF,
            incarnation.clock_seq_hi_variant,
            incarnation.clock_seq_low,
            incarnation.node,
        ),
        version=1,
    )


@pytest.fixture
def tables(store, keyspace):
    found = damage.Tables(store, keyspace)
    found.empty()
    return found


@pytest.fixture(autouse=True)
def cheap_hashes(conf):
    conf.set_override('password_hash_rounds', 4, 'identity')
    yield
    conf.clear_override('password_hash_rounds', 'identity')


@pytest.fixture
def aged(monkeypatch):
    """Let all that is there when a run begins be old."""
    monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))


def found_then_fixed(store, tables, derived, wrong):
    """A dry run finds it and changes nothing; then it is fixed, once.

    :param wrong: what is wrong, by table: the kind of damage.
    """
    before = tables.contents(derived)
    with faults.counted(store) as sent:
        assert fix(store, derived, apply=False) == {
            table: {damage: 1} for table, damage in wrong.items()
        }
    assert {each.verb for batch in sent for each in batch} == {'SELECT'}
    assert tables.contents(derived) == before
    assert fix(store, derived) == {
        table: {damage: 1, 'fixed': 1} for table, damage in wrong.items()
    }
    assert at_rest(store, derived) == {}


@EVERY_CASE
def test_what_is_whole_stays(store, tables, aged, case):
    for _ in range(3):
        case.make()
    before = tables.contents(case.derived)
    assert at_rest(store, case.derived) == {}
    assert tables.contents(case.derived) == before


@EVERY_CASE
def test_all_rows_are_looked_at(store, tables, aged, case, monkeypatch):
    monkeypatch.setattr(reconcile, 'CHUNK', 2)
    seen = []
    for _ in range(5):
        case.make()
    work = reconcile.Reconciler(
        store, examined=lambda table, rows: seen.append((table, rows))
    )
    work.run(case.derived)
    there = {table: len(tables.rows(table)) for table in case.tables}
    assert there[case.table] == 5
    assert {t: counts.rows for t, counts in work.counts.items()} == there
    assert {
        table: sum(n for t, n in seen if t == table) for table, _ in seen
    } == there


@EVERY_TABLE
def test_a_row_that_is_missing(store, tables, aged, case, table):
    place = tables.place(case.derived, table, case.make())
    case.make()
    tables.delete(table.name, table.key(place))
    found_then_fixed(store, tables, case.derived, {table.name: 'missing'})
    assert table.fits(place, tables.row(table, place))


@EVERY_CASE
def test_a_base_row_that_is_gone(store, tables, aged, case):
    key = case.make()
    whole = tables.contents(case.derived)
    tables.delete(case.table, case.make())
    found_then_fixed(
        store,
        tables,
        case.derived,
        {table.name: 'stale' for table in case.index_tables}
        | {spec.claims.table: 'stale' for spec in case.claim_specs},
    )
    assert tables.contents(case.derived) == whole
    assert tables.base_row(case.derived, key)


@each_table(
    (case, table) for case, table in damage.INDEX_TABLES if moving(case, table)
)
def test_a_row_of_another_value(store, tables, aged, case, table):
    right = tables.place(case.derived, table, case.make())
    moves = moving(case, table)[0]
    tables.insert(table.name, right | {moves: uuid.uuid4().hex})
    if moves in table.key(right):
        found_then_fixed(store, tables, case.derived, {table.name: 'stale'})
    else:
        # In the place of the right one, which so is missing.
        assert fix(store, case.derived) == {
            table.name: {'stale': 1, 'missing': 1, 'fixed': 2}
        }
        assert at_rest(store, case.derived) == {}
    assert tables.row(table, right) == right


@VERSIONED
def test_a_row_of_another_life(store, tables, aged, case, table):
    right = tables.place(case.derived, table, case.make())
    tables.insert(table.name, right | {'incarnation': clock.incarnation()})
    found_then_fixed(store, tables, case.derived, {table.name: 'stale'})
    assert tables.row(table, right) == right


class TestIDMappings:
    DERIVED = ALL_DERIVED['id_mapping']

    @pytest.fixture
    def driver(self, store):
        return id_mapping.IDMappings()

    def mapping(self, tables):
        key = case_of('id_mapping').make()
        base_row = tables.base_row(self.DERIVED, key)
        return {name: base_row[name] for name in self.DERIVED.row.columns}

    def test_two_of_one_entity(self, store, tables, aged, driver):
        """One of them is found by it; that is told."""
        first = self.mapping(tables)
        second = first | {'public_id': 'second'}
        tables.insert('id_mapping', second)
        (listed,) = id_mapping.DOMAINS.rows(second)
        tables.insert('id_mapping_by_domain', listed)
        for apply in (False, True, True):
            said = []
            assert fix(store, self.DERIVED, apply, said) == {
                'id_mapping_by_local': {'missing': 1}
            }
            assert len(said) == 1
            assert 'second' in said[0]
            assert first['public_id'] in said[0]
            assert first['local_id'] not in said[0]
        assert driver.get_public_id(first) == first['public_id']

    @pytest.mark.parametrize('hidden', [False, True])
    def test_one_that_was_fixed_can_be_deleted(
        self, store, tables, aged, driver, hidden
    ):
        mapping = self.mapping(tables)
        written_at = tables.base_row(
            self.DERIVED, {'public_id': mapping['public_id']}
        )['written_at']
        using = '' if hidden else f' USING TIMESTAMP {written_at - 1}'
        for table in self.DERIVED.tables:
            (place,) = table.rows(mapping)
            if not hidden:
                tables.delete(table.name, table.key(place), using)
                # As lost with a node: without a trace.
                tables.execute(f'TRUNCATE {tables.keyspace}."{table.name}"')
            else:
                tables.delete(table.name, table.key(place))
        found = fix(store, self.DERIVED)
        assert found['id_mapping_by_local'] == {'missing': 1, 'fixed': 1}
        assert driver.get_public_id(mapping) == mapping['public_id']
        driver.delete_id_mapping(mapping['public_id'])
        assert not any(tables.contents(self.DERIVED).values())


class TestGrants:
    """An index row is taken at its word where it says so."""

    CASE = case_of('grant')

    @pytest.fixture
    def lost(self, store, tables, aged):
        """A grant whose index rows were lost, with a node as it were."""
        key = self.CASE.make()
        for table in self.CASE.index_tables:
            tables.execute(f'TRUNCATE {tables.keyspace}.{table.name}')
        return key

    def settled(self, tables):
        return [row[-1] for row in tables.rows('grant_by_actor')]

    def listed(self, store, key):
        found = grants.of_actors(store, [key['actor_id']])
        return [each['role_id'] for each in found]

    def test_what_was_lost_is_settled(self, store, tables, lost):
        found_then_fixed(
            store,
            tables,
            self.CASE.derived,
            {table.name: 'missing' for table in self.CASE.index_tables},
        )
        assert self.settled(tables) == [True]
        assert self.listed(store, lost) == [lost['role_id']]
        # And goes with its grant.
        grants.remove(store, grants.GRANTS.find(store, **lost))
        assert not any(tables.contents(self.CASE.derived).values())

    def test_what_was_deleted_is_not(self, store, tables, aged):
        key = self.CASE.make()
        place = tables.place(self.CASE.derived, grants.ACTORS, key)
        tables.delete('grant_by_actor', grants.ACTORS.key(place))
        assert fix(store, self.CASE.derived) == {
            'grant_by_actor': {'missing': 1, 'fixed': 1}
        }
        assert self.settled(tables) == [False]
        assert self.listed(store, key) == [key['role_id']]
        # It outlives its grant, and says nothing then.
        grants.remove(store, grants.GRANTS.find(store, **key))
        assert self.listed(store, key) == []
        assert fix(store, self.CASE.derived) == {
            'grant_by_actor': {'stale': 1, 'fixed': 1}
        }
        assert not any(tables.contents(self.CASE.derived).values())

    def test_a_row_that_is_not_settled_is_no_damage(self, store, tables, aged):
        key = self.CASE.make()
        place = tables.place(self.CASE.derived, grants.ROLES, key)
        tables.insert('grant_by_role', place | {'settled': False})
        assert fix(store, self.CASE.derived) == {}


@EVERY_CLAIM
class TestClaims:
    def test_missing(self, store, tables, aged, case, spec):
        key = case.make()
        name = tables.name(case.derived, spec, key)
        tables.delete(spec.claims.table, name)
        found_then_fixed(
            store, tables, case.derived, {spec.claims.table: 'missing'}
        )
        claim = tables.claim(spec, name)
        assert [claim['owner']] == list(key.values())

    @pytest.mark.parametrize('state', ['held', 'pending'])
    def test_whose_owner_is_gone(self, store, tables, aged, case, spec, state):
        name = tables.name(case.derived, spec, case.make())
        tables.empty()
        tables.make_claim(spec, name, state)
        found_then_fixed(
            store, tables, case.derived, {spec.claims.table: 'stale'}
        )
        assert tables.claim(spec, name) is None

    def test_whose_owner_has_another_name(
        self, store, tables, aged, case, spec
    ):
        name = tables.name(case.derived, spec, case.make())
        tables.empty()
        (owner,) = case.make().values()
        tables.make_claim(spec, name, 'held', owner=owner)
        found_then_fixed(
            store, tables, case.derived, {spec.claims.table: 'stale'}
        )
        assert tables.claim(spec, name) is None
        assert tables.base_row(
            case.derived, dict.fromkeys(case.derived.key, owner)
        )

    def test_pending_of_an_owner_that_is_there(
        self, store, tables, aged, case, spec
    ):
        key = case.make()
        name = tables.name(case.derived, spec, key)
        (owner,) = key.values()
        tables.make_claim(spec, name, 'pending', owner=owner)
        assert at_rest(store, case.derived) == {}
        assert tables.claim(spec, name)['owner'] == owner

    def test_that_stands_in_the_way(self, store, tables, aged, case, spec):
        """Held by nobody, while somebody lacks it."""
        key = case.make()
        name = tables.name(case.derived, spec, key)
        tables.make_claim(spec, name, 'held')
        table = spec.claims.table
        assert fix(store, case.derived, apply=False) == {
            table: {'stale': 1, 'missing': 1}
        }
        assert fix(store, case.derived) == {
            table: {'stale': 1, 'missing': 1, 'fixed': 2}
        }
        assert at_rest(store, case.derived) == {}
        assert [tables.claim(spec, name)['owner']] == list(key.values())


@pytest.mark.parametrize(
    'case', [case for case in damage.CASES if case.claim_specs], ids=str
)
def test_two_that_are_called_so(store, tables, aged, case):
    """Whoever has the name keeps it; that is told with the ids of both."""
    key = case.make()
    (first,) = key.values()
    second = uuid.uuid4().hex
    whole = tables.execute(f'SELECT * FROM {tables.keyspace}."{case.table}"')
    same = {
        name: value for name, value in whole.one().items() if value is not None
    }
    tables.insert(case.table, same | {'id': second})
    for table in case.index_tables:
        for place in tables.places(case.derived, table, {'id': second}):
            tables.insert(table.name, place)
    for apply in (False, True, True):
        said = []
        assert fix(store, case.derived, apply, said) == {
            spec.claims.table: {'missing': 1} for spec in case.claim_specs
        }
        assert len(said) == len(case.claim_specs)
        assert all(first in line and second in line for line in said)
    for spec in case.claim_specs:
        name = tables.name(case.derived, spec, key)
        assert tables.claim(spec, name)['owner'] == first


@pytest.mark.parametrize('apply', [False, True])
def test_a_claim_that_is_half_gone_is_left_alone(store, tables, aged, apply):
    """As one that expires can be, for a moment: without an owner."""
    case = case_of('group')
    (spec,) = case.claim_specs
    name = tables.name(case.derived, spec, case.make())
    tables.delete('group_claim', name)
    tables.insert('group_claim', name | {'state': 'held', 'claimed_at': 1})
    assert fix(store, case.derived, apply) == {'group_claim': {'young': 1}}


class TestYoung:
    """As it is: what was made just now is left alone, and counted."""

    @EVERY_TABLE
    def test_what_a_base_row_lacks(self, store, tables, case, table):
        place = tables.place(case.derived, table, case.make())
        tables.delete(table.name, table.key(place))
        assert fix(store, case.derived) == {table.name: {'young': 1}}
        assert tables.row(table, place) is None

    @EVERY_CLAIM
    def test_a_claim_that_a_base_row_lacks(self, store, tables, case, spec):
        name = tables.name(case.derived, spec, case.make())
        tables.delete(spec.claims.table, name)
        assert fix(store, case.derived) == {spec.claims.table: {'young': 1}}
        assert tables.claim(spec, name) is None

    @EVERY_CASE
    def test_what_has_no_base_row(self, store, tables, case):
        tables.delete(case.table, case.make())
        before = tables.contents(case.derived)
        assert fix(store, case.derived) == {
            table: {'young': 1}
            for table in (
                *(table.name for table in case.index_tables),
                *(spec.claims.table for spec in case.claim_specs),
            )
        }
        assert tables.contents(case.derived) == before

    @EVERY_CASE
    def test_it_grows_old(self, store, tables, case, monkeypatch):
        """Ten minutes later the same is damage."""
        tables.delete(case.table, case.make())
        real = clock.utcnow
        monkeypatch.setattr(clock, 'utcnow', lambda: real() + AGE)
        found = fix(store, case.derived, apply=False)
        assert {table.name for table in case.index_tables} <= found.keys()
        assert not any('young' in counts for counts in found.values())

    @VERSIONED
    def test_the_row_that_a_base_row_has_just_left(
        self, store, tables, case, table
    ):
        """Its writer is about to remove it, however old it is."""
        right = tables.place(case.derived, table, case.make())
        left = right | {'incarnation': earlier(right['incarnation'])}
        old = clock.to_micros(clock.utcnow() - HOUR)
        tables.insert(table.name, left, f' USING TIMESTAMP {old}')
        assert fix(store, case.derived) == {table.name: {'young': 1}}
        assert tables.row(table, left) == left

    def test_a_trusts_rows_tell_no_age(self, store, tables):
        """A dry run counts them; Cassandra spares them."""
        case = case_of('trust')
        tables.delete('trust', case.make())
        before = tables.contents(case.derived)
        assert fix(store, case.derived, apply=False) == {
            table.name: {'stale': 1} for table in case.index_tables
        } | {'trust_claim': {'young': 1}}
        fix(store, case.derived)
        assert tables.contents(case.derived) == before


def test_a_deleted_trust_may_be_without_its_claim(store, tables, aged):
    case = case_of('trust')
    (spec,) = case.claim_specs
    key = case.make()
    name = tables.name(case.derived, spec, key)
    trust.Trust().delete_trust(key['id'])
    spec.claims.give_up(store, spec.claims.find(store, key['id'], name))
    assert at_rest(store, case.derived) == {}


def test_what_a_change_left_of_a_deleted_one_is_none(store, tables, aged):
    tables.insert(
        'registered_limit',
        {'bucket': 0, 'id': 'gone', 'incarnation': clock.incarnation()},
    )
    assert fix(store, ALL_DERIVED['registered_limit']) == {}


def test_what_a_server_of_old_leaves_of_a_deleted_user_is_none(
    store, tables, aged
):
    """A ghost: it has no names and no indexes, and stays."""
    tables.insert('user', {'id': 'ghost', 'failures': {'0.x': 1}})
    assert fix(store, ALL_DERIVED['user']) == {}
    assert len(tables.rows('user')) == 1


def test_what_is_added_expires_with_its_base_row(
    store, tables, aged, monkeypatch
):
    monkeypatch.setattr(reconcile, 'EXPIRING', 1)
    cases = [case_of(each) for each in ('trust', 'application_credential')]

    def left():
        return [
            row
            for case in cases
            for rows in tables.contents(case.derived).values()
            for row in rows
        ]

    def make_and_mend(life):
        monkeypatch.setattr(clock, 'ttl_until', lambda end, extra=0: life)
        lives.until_gone(left)
        for case in cases:
            key = case.make()
            (spec,) = case.claim_specs
            for table in case.index_tables:
                place = tables.place(case.derived, table, key)
                tables.delete(table.name, table.key(place))
            name = tables.name(case.derived, spec, key)
            tables.delete(spec.claims.table, name)
            found = fix(store, case.derived)
            if not tables.rows(case.table):
                raise exception.NotFound  # before it was looked at
            assert found.keys() == set(case.tables[1:])
            assert all(
                each == {'missing': 1, 'fixed': 1} for each in found.values()
            )

    lives.long_enough(make_and_mend)
    lives.until_gone(left)


def test_what_is_about_to_expire_is_left_to_it(
    store, tables, aged, monkeypatch
):
    monkeypatch.setattr(clock, 'ttl_until', lambda end, extra=0: 50)
    case = case_of('trust')
    place = tables.place(case.derived, trust.BY_PROJECT, case.make())
    tables.delete('trust_by_project', place)
    tables.delete('trust', case.make())
    found = fix(store, case.derived)
    assert 'trust_claim' not in found
    assert 'missing' not in found['trust_by_project']


class TestDatacenters:
    @EVERY_CASE
    def test_what_is_in_progress_is_ended_and_all_are_asked(
        self, store, tables, aged, case
    ):
        """Before anything is counted or changed."""
        tables.delete(case.table, case.make())
        with faults.counted(store) as sent:
            assert fix(store, case.derived)
        asked = [
            number
            for number, batch in enumerate(sent)
            if batch == (case.derived.find_everywhere,)
        ]
        assert asked
        for number in asked:
            if case.derived.settle:
                assert sent[number - 1] == (case.derived.settle,)
        writes = [
            number
            for number, batch in enumerate(sent)
            if batch[0].verb != 'SELECT'
        ]
        assert asked[0] < min(writes)
        removals = [table.delete_older for table in case.index_tables]
        for number in writes:
            if sent[number][0] in removals:
                # The base row, and then the row itself.
                assert number - 2 in asked
                assert sent[number - 1][0].operation.value == 'escalated_read'

    def test_one_that_cannot_be_asked(self, store, tables, aged):
        case = case_of('trust')
        tables.delete('trust', case.make())
        unavailable = cassandra.Unavailable(
            'Cannot achieve consistency level EACH_QUORUM in DC dc2'
        )
        before = tables.contents(case.derived)
        for target in (reconcile.PROBE, case.derived.find_everywhere):
            with (
                faults.fail(store, target, unavailable, times=-1),
                pytest.raises(errors.StoreUnavailable, match='dc2'),
            ):
                fix(store, case.derived)
            assert tables.contents(case.derived) == before


@pytest.mark.usefixtures('aged')
def test_a_row_that_a_later_deletion_hides(store, tables):
    case, table = case_of('trust'), trust.BY_TRUSTOR
    place = tables.place(case.derived, table, case.make())
    later = clock.to_micros(clock.utcnow() + HOUR)
    tables.delete(table.name, place, f' USING TIMESTAMP {later}')
    said = []
    assert fix(store, case.derived, problems=said) == {
        table.name: {'missing': 1}
    }
    assert 'clocks' in said[0]


class TestAnotherKind:
    """Entities kept together, listed by several values: as roles will be."""

    THING = Row('id', 'incarnation', tags=text_list)
    BY_TAG = Index(
        'thing_by_tag',
        'tag',
        sharded=False,
        versioned=True,
        values_of=lambda thing: thing['tags'] or (),
    )
    THINGS = Entity('thing', THING, Indexes(BY_TAG), single_partition=True)
    DERIVED = DerivedTables.of(THINGS, 'tags')

    @pytest.fixture
    def things(self, store, tables):
        tables.execute(
            f'CREATE TABLE {tables.keyspace}.thing (bucket int, id text,'
            ' incarnation timeuuid, born timeuuid, tags frozen<list<text>>,'
            ' PRIMARY KEY ((bucket), id))'
        )
        tables.execute(
            f'CREATE TABLE {tables.keyspace}.thing_by_tag (tag text, id text,'
            ' incarnation timeuuid, PRIMARY KEY ((tag), id, incarnation))'
        )
        for name in ('one', 'two'):
            thing = self.THINGS.new({'id': name, 'tags': ['red', 'blue']})
            assert self.THINGS.create(store, thing)
        yield tables
        for table in tables_of(self.DERIVED):
            tables.execute(f'DROP TABLE {tables.keyspace}.{table}')

    def test_it_is_fixed_too(self, store, things, aged):
        assert fix(store, self.DERIVED) == {}
        places = things.places(self.DERIVED, self.BY_TAG, {'id': 'one'})
        assert len(places) == 2
        things.delete('thing_by_tag', places[0])
        things.insert('thing_by_tag', places[1] | {'tag': 'green'})
        for done in ({}, {'fixed': 2}):
            assert fix(store, self.DERIVED, apply=bool(done)) == {
                'thing_by_tag': {'stale': 1, 'missing': 1, **done}
            }
        assert fix(store, self.DERIVED) == {}
        assert self.BY_TAG.ids(store, 'red') == ['one', 'two']
        assert self.BY_TAG.ids(store, 'green') == []


@pytest.fixture
def run(cassandra_cluster, keyspace, tmp_path):
    """The command on the run's keyspace."""
    return command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        keyspace,
    )


def make_old_damage(tables):
    """Make an old index row of no trust, in a shard that is not its own."""
    old = clock.to_micros(clock.utcnow() - HOUR)
    tables.insert(
        'trust_by_project',
        {'project_id': uuid.uuid4().hex, 'shard': 0, 'id': 'gone'},
        f' USING TIMESTAMP {old}',
    )


def test_the_command(store, tables, run):
    case_of('access_rule').make()
    make_old_damage(tables)
    done = run('reconcile')
    assert done.returncode == 1, done.stderr
    assert 'Nothing was changed' in done.stdout
    lines = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()
    }
    assert lines['trust_by_project'] == [*'110001']
    assert lines['access_rule_claim'] == [*'100000']
    assert lines['access_rule'] == [*'1-----']
    assert lines.keys() >= {
        table
        for derived in ALL_DERIVED.values()
        for table in tables_of(derived)
    }
    assert tables.rows('trust_by_project')
    other = run.here('reconcile', 'credential', 'id_mapping')
    assert other.returncode == 0, other.stderr
    assert 'trust' not in other.stdout
    done = run.here(
        'reconcile', '--apply', 'trust', '--rate', '100', '--verbose'
    )
    assert done.returncode == 0, done.stderr
    assert 'trust_by_project: stale, gone' in done.stderr.splitlines()
    assert re.search(r'trust_by_project +1 +1 +0 +1 +0 +0\n', done.stdout)
    assert not tables.rows('trust_by_project')
    done = run.here('reconcile')
    assert done.returncode == 0
    assert 'Nothing is left to fix.' in done.stdout


@pytest.mark.parametrize('apply', [False, True])
def test_what_was_found_is_named(store, tables, aged, apply):
    case = case_of('group')
    (table,), (spec,) = case.index_tables, case.claim_specs
    lacking, renamed = case.make(), case.make()
    tables.delete(
        table.name, table.key(tables.place(case.derived, table, lacking))
    )
    tables.delete(spec.claims.table, tables.name(case.derived, spec, renamed))
    name = {'folded_name': 'free', 'domain_id': 'any'}
    nobody = tables.make_claim(spec, name, 'held')
    creator = tables.make_claim(spec, name | {'domain_id': 'other'}, 'pending')
    gone = case.make()
    tables.delete(case.table, gone)
    named = []
    work = reconcile.Reconciler(store, apply=apply, noticed=named.append)
    work.run(case.derived)
    assert sorted(named) == sorted(
        [
            f'group_by_domain: missing, {lacking["id"]}',
            f'group_by_domain: stale, {gone["id"]}',
            f'group_claim: missing, {renamed["id"]}',
            f'group_claim: stale, {nobody}',
            f'group_claim: stale, {gone["id"]}',
            f'group_claim: stale, {creator}',
        ]
    )
    assert sum(counts.wrong for counts in work.counts.values()) == len(named)
    assert any(counts.left for counts in work.counts.values()) is not apply


def test_the_bar_and_an_interruption(store, tables, run):
    make_old_damage(tables)
    for _ in range(3):
        case_of('user').make()
    terminal, side = os.openpty()
    with subprocess.Popen(
        run.arguments('reconcile', '--rate', '1', 'trust', 'user'),
        stdout=subprocess.PIPE,
        stderr=side,
        text=True,
        # Who runs the tests in the background has it ignored, for all below.
        preexec_fn=functools.partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),
    ) as process:
        os.close(side)
        shown = ''
        while 'user_by_domain: 3 rows' not in shown:
            shown += os.read(terminal, 1024).decode()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    with contextlib.suppress(OSError):  # how a terminal ends
        while more := os.read(terminal, 1024).decode():
            shown += more
    os.close(terminal)
    assert process.returncode == 1
    assert re.search(r'\[#+-+\] table \d+ of 13, ', shown)
    assert 'Interrupted; running it again is safe.' in shown
    assert 'Traceback' not in shown
    # What was found until then.
    assert re.search(r'trust_by_project +1 +1 +0 +0 +0 +1\n', out)
    assert 'Interrupted in user_by_domain' in out
    assert 'user_claim' not in out


def test_without_its_schema(cassandra_cluster, tmp_path):
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        f'absent_{uuid.uuid4().hex[:8]}',
    )
    done = run.here('reconcile')
    assert done.returncode == 1
    assert done.stdout == ''
    assert '`keystone-cassandra ' in command.last_line(done)
