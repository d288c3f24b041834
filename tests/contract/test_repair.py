# SPDX-License-Identifier: Apache-2.0
"""Repair of what follows from truths, damage by damage."""

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
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import id_mapping
from keystone_cassandra_token.tables import reconcile, unique
from keystone_cassandra_token.tables.derived import Kind
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes
from tests.contract import damage, lives
from tests.contract.damage import HOUR, KINDS, case_of, mend, tables_of
from tests.fault import faults

EVERY_CASE = pytest.mark.parametrize('case', damage.CASES, ids=str)


def each_link(pairs):
    pairs = list(pairs)
    return pytest.mark.parametrize(
        ('case', 'link'),
        pairs,
        ids=[f'{case}-{link.table}' for case, link in pairs],
    )


def moving(case, link):
    """Return the columns by which a truth's row could be a wrong one."""
    fixed = (*case.kind.key, 'shard', 'incarnation', 'settled')
    return [name for name in link.row.columns if name not in fixed]


EVERY_LINK = each_link(damage.LINKS)
INCARNATE = each_link(
    (case, link)
    for case, link in damage.LINKS
    if 'incarnation' in link.row.columns
)
EVERY_CLAIM = pytest.mark.parametrize(
    ('case', 'names'),
    damage.NAMES,
    ids=[f'{case}-{names.claims.table}' for case, names in damage.NAMES],
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


def found_then_mended(store, tables, kind, wrong):
    """A dry run finds it and changes nothing; then it is mended, once.

    :param wrong: what is wrong, by table: the kind of damage.
    """
    before = tables.contents(kind)
    with faults.counted(store) as sent:
        assert mend(store, kind, apply=False) == {
            table: {damage: 1} for table, damage in wrong.items()
        }
    assert {each.verb for batch in sent for each in batch} == {'SELECT'}
    assert tables.contents(kind) == before
    assert mend(store, kind) == {
        table: {damage: 1, 'mended': 1} for table, damage in wrong.items()
    }
    assert mend(store, kind) == {}


@EVERY_CASE
def test_what_is_whole_stays(store, tables, aged, case):
    for _ in range(3):
        case.make()
    before = tables.contents(case.kind)
    assert mend(store, case.kind) == {}
    assert tables.contents(case.kind) == before


@EVERY_CASE
def test_all_rows_are_looked_at(store, tables, aged, case, monkeypatch):
    monkeypatch.setattr(reconcile, 'CHUNK', 2)
    seen = []
    for _ in range(5):
        case.make()
    work = reconcile.Repair(
        store, examined=lambda table, rows: seen.append((table, rows))
    )
    work.run(case.kind)
    there = {table: len(tables.rows(table)) for table in case.tables}
    assert there[case.table] == 5
    assert {t: counts.rows for t, counts in work.counts.items()} == there
    assert {
        table: sum(n for t, n in seen if t == table) for table, _ in seen
    } == there


@EVERY_LINK
def test_a_row_that_is_missing(store, tables, aged, case, link):
    place = tables.place(case.kind, link, case.make())
    case.make()
    tables.delete(link.table, link.key(place))
    found_then_mended(store, tables, case.kind, {link.table: 'missing'})
    assert link.fits(place, tables.row(link, place))


@EVERY_CASE
def test_a_truth_that_is_gone(store, tables, aged, case):
    key = case.make()
    whole = tables.contents(case.kind)
    tables.delete(case.table, case.make())
    found_then_mended(
        store,
        tables,
        case.kind,
        {link.table: 'stale' for link in case.links}
        | {names.claims.table: 'held' for names in case.names},
    )
    assert tables.contents(case.kind) == whole
    assert tables.truth(case.kind, key)


@each_link((case, link) for case, link in damage.LINKS if moving(case, link))
def test_a_row_of_another_value(store, tables, aged, case, link):
    right = tables.place(case.kind, link, case.make())
    moves = moving(case, link)[0]
    tables.insert(link.table, right | {moves: uuid.uuid4().hex})
    if moves in link.key(right):
        found_then_mended(store, tables, case.kind, {link.table: 'stale'})
    else:
        # In the place of the right one, which so is missing.
        assert mend(store, case.kind) == {
            link.table: {'stale': 1, 'missing': 1, 'mended': 2}
        }
        assert mend(store, case.kind) == {}
    assert tables.row(link, right) == right


@INCARNATE
def test_a_row_of_another_life(store, tables, aged, case, link):
    right = tables.place(case.kind, link, case.make())
    tables.insert(link.table, right | {'incarnation': clock.incarnation()})
    found_then_mended(store, tables, case.kind, {link.table: 'stale'})
    assert tables.row(link, right) == right


class TestIDMappings:
    KIND = KINDS['id_mapping']

    @pytest.fixture
    def driver(self, store):
        return id_mapping.IDMappings()

    def mapping(self, tables):
        key = case_of('id_mapping').make()
        truth = tables.truth(self.KIND, key)
        return {name: truth[name] for name in self.KIND.row.columns}

    def test_two_of_one_entity(self, store, tables, aged, driver):
        """One of them is found by it; that is told."""
        first = self.mapping(tables)
        second = first | {'public_id': 'second'}
        tables.insert('id_mapping', second)
        (listed,) = id_mapping.DOMAINS.rows(second)
        tables.insert('id_mapping_by_domain', listed)
        for apply in (False, True, True):
            said = []
            assert mend(store, self.KIND, apply, said) == {
                'id_mapping_by_local': {'missing': 1}
            }
            assert len(said) == 1
            assert 'second' in said[0]
            assert first['public_id'] in said[0]
            assert first['local_id'] not in said[0]
        assert driver.get_public_id(first) == first['public_id']

    @pytest.mark.parametrize('hidden', [False, True])
    def test_one_that_was_mended_can_be_deleted(
        self, store, tables, aged, driver, hidden
    ):
        mapping = self.mapping(tables)
        written_at = tables.truth(
            self.KIND, {'public_id': mapping['public_id']}
        )['written_at']
        using = '' if hidden else f' USING TIMESTAMP {written_at - 1}'
        for link in self.KIND.links:
            (place,) = link.rows(mapping)
            if not hidden:
                tables.delete(link.table, link.key(place), using)
                # As lost with a node: without a trace.
                tables.execute(f'TRUNCATE {tables.keyspace}."{link.table}"')
            else:
                tables.delete(link.table, link.key(place))
        found = mend(store, self.KIND)
        assert found['id_mapping_by_local'] == {'missing': 1, 'mended': 1}
        assert driver.get_public_id(mapping) == mapping['public_id']
        driver.delete_id_mapping(mapping['public_id'])
        assert not any(tables.contents(self.KIND).values())


class TestGrants:
    """An index row is taken at its word where it says so."""

    CASE = case_of('grant')

    @pytest.fixture
    def lost(self, store, tables, aged):
        """A grant whose index rows were lost, with a node as it were."""
        key = self.CASE.make()
        for link in self.CASE.links:
            tables.execute(f'TRUNCATE {tables.keyspace}.{link.table}')
        return key

    def settled(self, tables):
        return [row[-1] for row in tables.rows('grant_by_actor')]

    def listed(self, store, key):
        found = grants.of_actors(store, [key['actor_id']])
        return [each['role_id'] for each in found]

    def test_what_was_lost_is_settled(self, store, tables, lost):
        found_then_mended(
            store,
            tables,
            self.CASE.kind,
            {link.table: 'missing' for link in self.CASE.links},
        )
        assert self.settled(tables) == [True]
        assert self.listed(store, lost) == [lost['role_id']]
        # And goes with its grant.
        grants.remove(store, grants.GRANTS.find(store, **lost))
        assert not any(tables.contents(self.CASE.kind).values())

    def test_what_was_deleted_is_not(self, store, tables, aged):
        key = self.CASE.make()
        place = tables.place(self.CASE.kind, grants.ACTORS, key)
        tables.delete('grant_by_actor', grants.ACTORS.key(place))
        assert mend(store, self.CASE.kind) == {
            'grant_by_actor': {'missing': 1, 'mended': 1}
        }
        assert self.settled(tables) == [False]
        assert self.listed(store, key) == [key['role_id']]
        # It outlives its grant, and says nothing then.
        grants.remove(store, grants.GRANTS.find(store, **key))
        assert self.listed(store, key) == []
        assert mend(store, self.CASE.kind) == {
            'grant_by_actor': {'stale': 1, 'mended': 1}
        }
        assert not any(tables.contents(self.CASE.kind).values())

    def test_a_row_that_is_not_settled_is_no_damage(self, store, tables, aged):
        key = self.CASE.make()
        place = tables.place(self.CASE.kind, grants.ROLES, key)
        tables.insert('grant_by_role', place | {'settled': False})
        assert mend(store, self.CASE.kind) == {}


@EVERY_CLAIM
class TestClaims:
    def test_missing(self, store, tables, aged, case, names):
        key = case.make()
        name = tables.name(case.kind, names, key)
        tables.delete(names.claims.table, name)
        found_then_mended(
            store, tables, case.kind, {names.claims.table: 'missing'}
        )
        claim = tables.claim(names, name)
        assert [claim['owner']] == list(key.values())
        assert claim['state'] == 'held'

    @pytest.mark.parametrize('state', ['held', 'pending'])
    def test_whose_owner_is_gone(
        self, store, tables, aged, case, names, state
    ):
        name = tables.name(case.kind, names, case.make())
        tables.empty()
        tables.make_claim(names, name, state)
        found_then_mended(
            store, tables, case.kind, {names.claims.table: state}
        )
        assert tables.claim(names, name) is None

    def test_whose_owner_has_another_name(
        self, store, tables, aged, case, names
    ):
        name = tables.name(case.kind, names, case.make())
        tables.empty()
        (owner,) = case.make().values()
        tables.make_claim(names, name, 'held', owner=owner)
        found_then_mended(
            store, tables, case.kind, {names.claims.table: 'held'}
        )
        assert tables.claim(names, name) is None
        assert tables.truth(case.kind, dict.fromkeys(case.kind.key, owner))

    def test_pending_of_an_owner_that_is_there(
        self, store, tables, aged, case, names
    ):
        key = case.make()
        name = tables.name(case.kind, names, key)
        (owner,) = key.values()
        tables.make_claim(names, name, 'pending', owner=owner)
        assert mend(store, case.kind) == {}
        assert tables.claim(names, name)['owner'] == owner

    def test_that_stands_in_the_way(self, store, tables, aged, case, names):
        """Held by nobody, while somebody lacks it."""
        key = case.make()
        name = tables.name(case.kind, names, key)
        tables.make_claim(names, name, 'held')
        table = names.claims.table
        assert mend(store, case.kind, apply=False) == {
            table: {'held': 1, 'missing': 1}
        }
        assert mend(store, case.kind) == {
            table: {'held': 1, 'missing': 1, 'mended': 2}
        }
        assert mend(store, case.kind) == {}
        assert [tables.claim(names, name)['owner']] == list(key.values())


@pytest.mark.parametrize(
    'case', [case for case in damage.CASES if case.names], ids=str
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
    for link in case.links:
        for place in tables.places(case.kind, link, {'id': second}):
            tables.insert(link.table, place)
    for apply in (False, True, True):
        said = []
        assert mend(store, case.kind, apply, said) == {
            names.claims.table: {'missing': 1} for names in case.names
        }
        assert len(said) == len(case.names)
        assert all(first in line and second in line for line in said)
    for names in case.names:
        name = tables.name(case.kind, names, key)
        assert tables.claim(names, name)['owner'] == first


@pytest.mark.parametrize('apply', [False, True])
def test_a_claim_that_is_half_gone_is_left_alone(store, tables, aged, apply):
    """As one that expires can be, for a moment: without an owner."""
    case = case_of('group')
    (names,) = case.names
    name = tables.name(case.kind, names, case.make())
    tables.delete('group_claim', name)
    tables.insert('group_claim', name | {'state': 'held', 'claimed_at': 1})
    assert mend(store, case.kind, apply) == {'group_claim': {'young': 1}}


class TestYoung:
    """As it is: what was made just now is left alone, and counted."""

    @EVERY_LINK
    def test_what_a_truth_lacks(self, store, tables, case, link):
        place = tables.place(case.kind, link, case.make())
        tables.delete(link.table, link.key(place))
        assert mend(store, case.kind) == {link.table: {'young': 1}}
        assert tables.row(link, place) is None

    @EVERY_CLAIM
    def test_a_claim_that_a_truth_lacks(self, store, tables, case, names):
        name = tables.name(case.kind, names, case.make())
        tables.delete(names.claims.table, name)
        assert mend(store, case.kind) == {names.claims.table: {'young': 1}}
        assert tables.claim(names, name) is None

    @EVERY_CASE
    def test_what_has_no_truth(self, store, tables, case):
        tables.delete(case.table, case.make())
        before = tables.contents(case.kind)
        assert mend(store, case.kind) == {
            table: {'young': 1}
            for table in (
                *(link.table for link in case.links),
                *(names.claims.table for names in case.names),
            )
        }
        assert tables.contents(case.kind) == before

    @EVERY_CASE
    def test_it_grows_old(self, store, tables, case, monkeypatch):
        """Ten minutes later the same is damage."""
        tables.delete(case.table, case.make())
        real = clock.utcnow
        monkeypatch.setattr(clock, 'utcnow', lambda: real() + AGE)
        found = mend(store, case.kind, apply=False)
        assert {link.table for link in case.links} <= found.keys()
        assert not any('young' in counts for counts in found.values())

    @INCARNATE
    def test_the_row_that_a_truth_has_just_left(
        self, store, tables, case, link
    ):
        """Its writer is about to remove it, however old it is."""
        right = tables.place(case.kind, link, case.make())
        left = right | {'incarnation': earlier(right['incarnation'])}
        old = clock.to_micros(clock.utcnow() - HOUR)
        tables.insert(link.table, left, f' USING TIMESTAMP {old}')
        assert mend(store, case.kind) == {link.table: {'young': 1}}
        assert tables.row(link, left) == left

    def test_a_trusts_rows_tell_no_age(self, store, tables):
        """A dry run counts them; Cassandra spares them."""
        case = case_of('trust')
        tables.delete('trust', case.make())
        before = tables.contents(case.kind)
        assert mend(store, case.kind, apply=False) == {
            link.table: {'stale': 1} for link in case.links
        } | {'trust_claim': {'young': 1}}
        mend(store, case.kind)
        assert tables.contents(case.kind) == before


def test_a_deleted_trust_may_be_without_its_claim(store, tables, aged):
    case = case_of('trust')
    (names,) = case.names
    key = case.make()
    name = tables.name(case.kind, names, key)
    trust.Trust().delete_trust(key['id'])
    names.claims.release(store, key['id'], **name)
    assert mend(store, case.kind) == {}


def test_what_a_change_left_of_a_deleted_one_is_none(store, tables, aged):
    tables.insert(
        'registered_limit',
        {'bucket': 0, 'id': 'gone', 'incarnation': clock.incarnation()},
    )
    assert mend(store, KINDS['registered_limit']) == {}


def test_what_a_failure_after_a_deletion_leaves_is_no_user(
    store, tables, aged
):
    """A ghost: it has no names and no indexes, and stays."""
    store.run(identity.FAIL, id='ghost', failures={'0.x': 1})
    assert mend(store, KINDS['user']) == {}
    assert len(tables.rows('user')) == 1


def test_what_is_added_expires_with_its_truth(
    store, tables, aged, monkeypatch
):
    monkeypatch.setattr(reconcile, 'EXPIRING', 1)
    cases = [case_of(each) for each in ('trust', 'application_credential')]

    def left():
        return [
            row
            for case in cases
            for rows in tables.contents(case.kind).values()
            for row in rows
        ]

    def make_and_mend(life):
        monkeypatch.setattr(clock, 'ttl_until', lambda end, extra=0: life)
        lives.until_gone(left)
        for case in cases:
            key = case.make()
            (names,) = case.names
            for link in case.links:
                place = tables.place(case.kind, link, key)
                tables.delete(link.table, link.key(place))
            name = tables.name(case.kind, names, key)
            tables.delete(names.claims.table, name)
            found = mend(store, case.kind)
            if not tables.rows(case.table):
                raise exception.NotFound  # before it was looked at
            assert found.keys() == set(case.tables[1:])
            assert all(
                each == {'missing': 1, 'mended': 1} for each in found.values()
            )

    lives.long_enough(make_and_mend)
    lives.until_gone(left)


def test_what_is_about_to_expire_is_left_to_it(
    store, tables, aged, monkeypatch
):
    monkeypatch.setattr(clock, 'ttl_until', lambda end, extra=0: 50)
    case = case_of('trust')
    place = tables.place(case.kind, trust.BY_PROJECT, case.make())
    tables.delete('trust_by_project', place)
    tables.delete('trust', case.make())
    found = mend(store, case.kind)
    assert 'trust_claim' not in found
    assert 'missing' not in found['trust_by_project']


class TestRegions:
    @EVERY_CASE
    def test_what_is_in_progress_is_ended_and_all_are_asked(
        self, store, tables, aged, case
    ):
        """Before anything is counted or changed."""
        tables.delete(case.table, case.make())
        with faults.counted(store) as sent:
            assert mend(store, case.kind)
        asked = [
            number
            for number, batch in enumerate(sent)
            if batch == (case.kind.find_everywhere,)
        ]
        assert asked
        for number in asked:
            if case.kind.settle:
                assert sent[number - 1] == (case.kind.settle,)
        writes = [
            number
            for number, batch in enumerate(sent)
            if batch[0].verb != 'SELECT'
        ]
        assert asked[0] < min(writes)
        removals = [link.delete_older for link in case.links]
        for number in writes:
            if sent[number][0] in removals:
                # The truth, and then the row itself.
                assert number - 2 in asked
                assert sent[number - 1][0].operation.value == 'escalated_read'

    def test_one_that_cannot_be_asked(self, store, tables, aged):
        case = case_of('trust')
        tables.delete('trust', case.make())
        unavailable = cassandra.Unavailable(
            'Cannot achieve consistency level EACH_QUORUM in DC dc2'
        )
        before = tables.contents(case.kind)
        for target in (reconcile.PROBE, case.kind.find_everywhere):
            with (
                faults.fail(store, target, unavailable, times=-1),
                pytest.raises(errors.StoreUnavailable, match='dc2'),
            ):
                mend(store, case.kind)
            assert tables.contents(case.kind) == before


@pytest.mark.usefixtures('aged')
def test_a_row_that_a_later_deletion_hides(store, tables):
    case, link = case_of('trust'), trust.BY_TRUSTOR
    place = tables.place(case.kind, link, case.make())
    later = clock.to_micros(clock.utcnow() + HOUR)
    tables.delete(link.table, place, f' USING TIMESTAMP {later}')
    said = []
    assert mend(store, case.kind, problems=said) == {
        link.table: {'missing': 1}
    }
    assert 'clocks' in said[0]


class TestAnotherKind:
    """Entities kept together, listed by several values: as roles will be."""

    THING = Row('id', 'incarnation', tags=text_list)
    BY_TAG = Index(
        'thing_by_tag',
        'tag',
        sharded=False,
        incarnate=True,
        among=lambda thing: thing['tags'] or (),
    )
    THINGS = Entity('thing', THING, Indexes(BY_TAG), together=True)
    KIND = Kind.of(THINGS, 'tags')

    @pytest.fixture
    def things(self, store, tables):
        tables.execute(
            f'CREATE TABLE {tables.keyspace}.thing (bucket int, id text,'
            ' incarnation timeuuid, tags frozen<list<text>>,'
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
        for table in tables_of(self.KIND):
            tables.execute(f'DROP TABLE {tables.keyspace}.{table}')

    def test_it_is_mended_too(self, store, things, aged):
        assert mend(store, self.KIND) == {}
        places = things.places(self.KIND, self.BY_TAG, {'id': 'one'})
        assert len(places) == 2
        things.delete('thing_by_tag', places[0])
        things.insert('thing_by_tag', places[1] | {'tag': 'green'})
        for done in ({}, {'mended': 2}):
            assert mend(store, self.KIND, apply=bool(done)) == {
                'thing_by_tag': {'stale': 1, 'missing': 1, **done}
            }
        assert mend(store, self.KIND) == {}
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
    done = run('repair')
    assert done.returncode == 1, done.stderr
    assert 'Nothing was changed' in done.stdout
    lines = {
        line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()
    }
    assert lines['trust_by_project'] == [*'11--0001']
    assert lines['access_rule_claim'] == [*'1-000000']
    assert lines['access_rule'] == [*'1-------']
    assert lines.keys() >= {
        table for kind in KINDS.values() for table in tables_of(kind)
    }
    assert tables.rows('trust_by_project')
    other = run.here('repair', 'credential', 'id_mapping')
    assert other.returncode == 0, other.stderr
    assert 'trust' not in other.stdout
    done = run.here('repair', '--apply', 'trust', '--rate', '100', '--verbose')
    assert done.returncode == 0, done.stderr
    assert 'trust_by_project: stale, gone' in done.stderr.splitlines()
    assert re.search(
        r'trust_by_project +1 +1 +- +- +0 +1 +0 +0\n', done.stdout
    )
    assert not tables.rows('trust_by_project')
    done = run.here('repair')
    assert done.returncode == 0
    assert 'Nothing is left to mend.' in done.stdout


@pytest.mark.parametrize('apply', [False, True])
def test_what_was_found_is_named(store, tables, aged, apply):
    case = case_of('group')
    (link,), (names,) = case.links, case.names
    lacking, renamed = case.make(), case.make()
    tables.delete(link.table, link.key(tables.place(case.kind, link, lacking)))
    tables.delete(names.claims.table, tables.name(case.kind, names, renamed))
    name = {'folded_name': 'free', 'domain_id': 'any'}
    nobody = tables.make_claim(names, name, unique.HELD)
    creator = tables.make_claim(
        names, name | {'domain_id': 'other'}, unique.PENDING
    )
    gone = case.make()
    tables.delete(case.table, gone)
    named = []
    work = reconcile.Repair(store, apply=apply, noticed=named.append)
    work.run(case.kind)
    assert sorted(named) == sorted(
        [
            f'group_by_domain: missing, {lacking["id"]}',
            f'group_by_domain: stale, {gone["id"]}',
            f'group_claim: missing, {renamed["id"]}',
            f'group_claim: held, {nobody}',
            f'group_claim: held, {gone["id"]}',
            f'group_claim: pending, {creator}',
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
        run.arguments('repair', '--rate', '1', 'trust', 'user'),
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
    assert re.search(r'trust_by_project +1 +1 +- +- +0 +0 +0 +1\n', out)
    assert 'Broken off in user_by_domain' in out
    assert 'user_claim' not in out


def test_without_its_schema(cassandra_cluster, tmp_path):
    run = command.for_nodes(
        tmp_path,
        cassandra_cluster.contact_points,
        cassandra_cluster.port,
        f'absent_{uuid.uuid4().hex[:8]}',
    )
    done = run.here('repair')
    assert done.returncode == 1
    assert done.stdout == ''
    assert '`keystone-cassandra ' in command.last_line(done)
