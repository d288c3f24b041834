# SPDX-License-Identifier: Apache-2.0
"""Reconcile beside servers that write, that die, and beside itself."""

from __future__ import annotations

import datetime
import threading
import uuid

import pytest
from lab.waiting import until

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import application_credential, credential
from keystone_cassandra_token.drivers.assignment import grants
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    groups,
    id_mapping,
    users,
)
from keystone_cassandra_token.drivers.identity.memberships import MEMBERSHIPS
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.tables import reconcile, unique
from tests.contract import damage
from tests.contract.damage import at_rest, case_of, fix
from tests.fault import faults

EVERY_TABLE = pytest.mark.parametrize(
    ('case', 'table'),
    damage.INDEX_TABLES,
    ids=[f'{case}-{table.name}' for case, table in damage.INDEX_TABLES],
)
EVERY_CLAIM = pytest.mark.parametrize(
    ('case', 'spec'),
    damage.CLAIM_SPECS,
    ids=[f'{case}-{spec.claims.table}' for case, spec in damage.CLAIM_SPECS],
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


class Meanwhile:
    """Runs something, held at a statement, while the block does another."""

    def __init__(self, store, target, run):
        self._hold = faults.hold(store, target)
        self._thread = threading.Thread(target=self._run, args=(run,))
        self._error = None

    def _run(self, run):
        try:
            self.result = run()
        except BaseException as error:
            self._error = error

    def __enter__(self):
        self._held = self._hold.__enter__()
        self._thread.start()
        assert self._held.reached.wait(faults.PATIENCE)
        return self

    def finish(self):
        """Let it go on, and wait until it is done."""
        self._held.release()
        self._thread.join(faults.PATIENCE)
        assert not self._thread.is_alive()

    def __exit__(self, *error):
        self.finish()
        self._hold.__exit__(*error)
        if self._error:
            raise self._error


def later() -> datetime.datetime:
    """Return a time after all that has been written.

    Cassandra keeps milliseconds of what has a time in a column.
    """
    now = clock.utcnow() + datetime.timedelta(milliseconds=1)
    until(lambda: clock.utcnow() > now, 'the next millisecond')
    return clock.utcnow()


@EVERY_TABLE
def test_made_again_before_a_row_is_removed(store, tables, aged, case, table):
    """Same id and values, so that for some it is the very same row."""
    key, again = case.make_again()
    tables.delete(case.table, key)
    later()
    with Meanwhile(
        store, table.delete_older, lambda: fix(store, case.derived)
    ):
        again()
    place = tables.place(case.derived, table, key)
    assert table.fits(place, tables.row(table, place))
    at_rest(store, case.derived)
    assert at_rest(store, case.derived) == {}
    assert table.fits(place, tables.row(table, place))


@EVERY_TABLE
def test_gone_before_a_row_is_added(store, tables, aged, case, table):
    key = case.make()
    base_row = tables.base_row(case.derived, key)
    place = tables.place(case.derived, table, key)
    tables.delete(table.name, table.key(place))
    put = table.put if base_row['ttl_left'] is None else table.put_expiring
    with Meanwhile(store, put, lambda: fix(store, case.derived)) as other:
        tables.delete(case.table, key)
    assert not tables.rows(table.name)
    assert table.name not in other.result


def test_deleted_before_a_row_is_added(store, tables, aged):
    """By a server, which removes the index rows before that one comes."""
    case = case_of('credential')
    key = case.make()
    place = tables.place(case.derived, credential.BY_TYPE, key)
    tables.delete('credential_by_type', place)
    with Meanwhile(
        store, credential.BY_TYPE.put, lambda: fix(store, case.derived)
    ):
        credential.Credential().delete_credential(key['id'])
    assert not any(tables.contents(case.derived).values())


def test_moved_before_a_row_is_added(store, tables, aged):
    case = case_of('credential')
    key = case.make()
    place = tables.place(case.derived, credential.BY_TYPE, key)
    tables.delete('credential_by_type', place)
    with Meanwhile(
        store, credential.BY_TYPE.put, lambda: fix(store, case.derived)
    ):
        credential.Credential().update_credential(key['id'], {'type': 'new'})
    (row,) = tables.rows('credential_by_type')
    assert 'new' in row
    assert at_rest(store, case.derived) == {}


@pytest.mark.parametrize('traces', [False, True])
def test_a_mapping_that_is_deleted_meanwhile(store, tables, aged, traces):
    case = case_of('id_mapping')
    key = case.make()
    for table in case.index_tables:
        place = tables.place(case.derived, table, key)
        if traces:
            tables.delete(table.name, table.key(place))
        else:
            tables.execute(f'TRUNCATE {tables.keyspace}.{table.name}')
    with Meanwhile(
        store, id_mapping.LOCALS.put, lambda: fix(store, case.derived)
    ):
        id_mapping.IDMappings().delete_id_mapping(key['public_id'])
    assert not any(tables.contents(case.derived).values())


def test_a_grant_that_is_removed_meanwhile(store, tables, aged):
    case = case_of('grant')
    key = case.make()
    for table in case.index_tables:
        tables.execute(f'TRUNCATE {tables.keyspace}.{table.name}')
    with Meanwhile(store, grants.ACTORS.put, lambda: fix(store, case.derived)):
        grants.remove(store, grants.GRANTS.find(store, **key))
    assert not any(tables.contents(case.derived).values())


def test_deleted_behind_the_scan(store, tables, aged):
    """The row that the scan saw is gone by then: no damage."""
    case = case_of('credential')
    key = case.make()
    with Meanwhile(
        store, case.derived.find, lambda: fix(store, case.derived, apply=False)
    ) as other:
        credential.Credential().delete_credential(key['id'])
    assert other.result == {}


@EVERY_CLAIM
@pytest.mark.parametrize('where', ['has', 'free'])
def test_an_owner_comes_back_while_its_claim_is_freed(
    store, tables, aged, case, spec, where
):
    """With the same id, at the worst moments."""
    key, again = case.make_again()
    name = tables.name(case.derived, spec, key)
    tables.delete(case.table, key)
    target = spec.claims.free
    if where == 'has':
        target = case.derived.find_everywhere
    later()
    with Meanwhile(store, target, lambda: fix(store, case.derived)):
        again()
    (owner,) = key.values()
    assert tables.claim(spec, name)['owner'] == owner
    at_rest(store, case.derived)
    assert at_rest(store, case.derived) == {}
    assert tables.claim(spec, name)['owner'] == owner


@pytest.mark.parametrize('by', ['its owner', 'another'])
def test_a_claim_that_was_changed_behind_the_scan(store, tables, aged, by):
    case = case_of('group')
    (spec,) = case.claim_specs
    key = case.make()
    name = tables.name(case.derived, spec, key)
    tables.delete(case.table, key)
    owner = key['id'] if by == 'its owner' else uuid.uuid4().hex
    target = spec.claims.settle_lasting
    with Meanwhile(store, target, lambda: fix(store, case.derived)) as other:
        tables.make_claim(spec, name, 'pending', owner=owner)
    assert tables.claim(spec, name)['owner'] == owner
    assert other.result.get('group_claim') == (
        {'young': 1} if by == 'its owner' else None
    )


@EVERY_CLAIM
def test_gone_while_its_claim_is_made(store, tables, aged, case, spec):
    key = case.make()
    name = tables.name(case.derived, spec, key)
    expiring = tables.base_row(case.derived, key)['ttl_left'] is not None
    tables.delete(spec.claims.table, name)
    claims = spec.claims
    target = claims.insert_expiring if expiring else claims.insert
    with Meanwhile(store, target, lambda: fix(store, case.derived)) as other:
        tables.delete(case.table, key)
    assert tables.claim(spec, name) is None
    assert claims.table not in other.result


@pytest.mark.parametrize('maker', ['user', 'group'])
def test_renamed_while_its_claim_is_made(store, tables, aged, maker):
    case = case_of(maker)
    spec = case.claim_specs[0]
    key = case.make()
    name = tables.name(case.derived, spec, key)
    tables.delete(spec.claims.table, name)
    target = spec.claims.insert
    driver = identity.Identity()
    change = driver.update_user if maker == 'user' else driver.update_group
    with Meanwhile(store, target, lambda: fix(store, case.derived)) as other:
        change(key['id'], {'name': 'new'})
    assert spec.claims.table not in other.result
    assert tables.claim(spec, name) is None
    new = tables.name(case.derived, spec, key)
    assert tables.claim(spec, new)['owner'] == key['id']
    assert at_rest(store, case.derived) == {}


def test_renamed_after_its_claim_was_looked_after(store, tables, monkeypatch):
    """By a server that found no claim to free, and now is slow."""
    case = case_of('group')
    (spec,) = case.claim_specs
    key = case.make()
    name = tables.name(case.derived, spec, key)
    tables.delete('group_claim', name)
    marker = later()
    rename = identity.Identity().update_group
    server = Meanwhile(
        store,
        groups.GROUPS.entity.update,
        lambda: rename(key['id'], {'name': 'new'}),
    )
    with server:
        monkeypatch.setattr(reconcile, 'YOUNG', clock.utcnow() - marker)
        fixing = Meanwhile(
            store, spec.claims.insert, lambda: fix(store, case.derived)
        )
        with fixing:
            server.finish()
    assert 'missing' not in fixing.result['group_claim']
    assert tables.claim(spec, name) is None
    new = tables.name(case.derived, spec, key)
    assert tables.claim(spec, new)['owner'] == key['id']


class TestServersAtWork:
    """What a server is in the middle of, beside what is old."""

    TARGETS = {
        'credential': credential.CREDENTIALS,
        'application_credential': application_credential.CREDENTIALS.entity,
        'access_rule': application_credential.ACCESS_RULES.entity,
        'user': users.USERS.entity,
        'federated_user': users.USERS.entity,
        'nonlocal_user': users.USERS.entity,
        'group': groups.GROUPS.entity,
        'project': projects.PROJECTS.entity,
    }

    def since(self, monkeypatch, marker):
        monkeypatch.setattr(reconcile, 'YOUNG', clock.utcnow() - marker)

    @pytest.mark.parametrize('maker', TARGETS)
    def test_creation(self, store, tables, monkeypatch, maker):
        case = case_of(maker)
        entity = self.TARGETS[maker]
        target = entity.insert
        if maker == 'application_credential':
            target = entity.insert_expiring
        with Meanwhile(store, target, case.make):
            assert tables.rows(case.index_tables[0].name)
            assert fix(store, case.derived)[case.index_tables[0].name] == {
                'young': 1
            }
        assert len(tables.rows(case.table)) == 1
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert at_rest(store, case.derived) == {}

    @pytest.mark.parametrize('name', ['update_user', 'delete_user'])
    def test_rename_and_deletion(self, store, tables, monkeypatch, name):
        case = case_of('user')
        key = case.make()
        marker = later()
        change = getattr(identity.Identity(), name)
        arguments = [{'name': 'new'}] if name == 'update_user' else []
        entity = users.USERS.entity
        target = entity.update if arguments else entity.bury
        with Meanwhile(store, target, lambda: change(key['id'], *arguments)):
            self.since(monkeypatch, marker)
            found = fix(store, case.derived)
            assert not any('fixed' in counts for counts in found.values())
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert at_rest(store, case.derived) == {}
        assert len(tables.rows('user_claim')) == len(arguments)
        assert len(tables.rows('user_by_domain')) == len(arguments)

    @pytest.mark.parametrize(
        'target', [MEMBERSHIPS.insert, MEMBERSHIPS.delete]
    )
    def test_membership(self, store, tables, monkeypatch, target):
        case = case_of('membership')
        leaves = target is MEMBERSHIPS.delete
        key = case.make() if leaves else damage.fresh('user_id', 'group_id')
        marker = later()
        found = MEMBERSHIPS.find(store, **key)
        with Meanwhile(
            store,
            target,
            lambda: (
                MEMBERSHIPS.discard(store, found)
                if leaves
                else MEMBERSHIPS.add(store, **key)
            ),
        ):
            self.since(monkeypatch, marker)
            assert not fix(store, case.derived).get('fixed')
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert at_rest(store, case.derived) == {}
        assert len(tables.rows('membership_by_group')) == (not leaves)


@pytest.mark.usefixtures('aged')
class TestCrashes:
    """What a server that died leaves, at each of its steps."""

    def whole(self, store, tables, maker, after):
        case = case_of(maker)
        found = fix(store, case.derived)
        assert at_rest(store, case.derived) == {}, after
        for table in case.index_tables:
            assert len(tables.rows(table.name)) == len(tables.rows(case.table))
        return sum(counts.get('fixed', 0) for counts in found.values())

    @pytest.mark.parametrize(
        'maker', ['user', 'application_credential', 'credential', 'membership']
    )
    def test_create(self, store, tables, maker):
        fixed = 0
        for after, _ in faults.each_crash(
            store, lambda: None, lambda _: case_of(maker).make()
        ):
            fixed += self.whole(store, tables, maker, after)
        assert fixed

    @pytest.mark.parametrize('name', ['update_user', 'delete_user'])
    def test_rename_and_delete(self, store, tables, name):
        fixed = 0
        change = getattr(identity.Identity(), name)
        for after, key in faults.each_crash(
            store,
            case_of('user').make,
            lambda key: change(
                key['id'],
                *([{'name': uuid.uuid4().hex}] if 'update' in name else []),
            ),
        ):
            fixed += self.whole(store, tables, 'user', after)
            there = users.USERS.entity.find(store, key['id']) is not None
            owners = {row[-3] for row in tables.rows('user_claim')}
            assert (key['id'] in owners) is there
        assert fixed

    def test_leave(self, store, tables):
        fixed = 0

        def leave(key):
            MEMBERSHIPS.remove(store, **key)

        for after, _ in faults.each_crash(
            store, case_of('membership').make, leave
        ):
            fixed += self.whole(store, tables, 'membership', after)
        assert fixed

    def test_reconcile_itself(self, store, tables):
        """Each of its steps leaves what the next run fixes."""
        case = case_of('group')
        (table,), (spec,) = case.index_tables, case.claim_specs

        def prepare():
            tables.empty()
            tables.delete(case.table, case.make())
            place = tables.place(case.derived, table, case.make())
            tables.delete(table.name, place)
            key = case.make()
            name = tables.name(case.derived, spec, key)
            tables.delete(spec.claims.table, name)

        prepare()
        with faults.counted(store) as sent:
            fix(store, case.derived)
        writes = [
            number
            for number, batch in enumerate(sent)
            if batch[0].verb != 'SELECT'
        ]
        assert len(writes) == 5
        for after in sorted({*writes, *(number + 1 for number in writes)}):
            prepare()
            with faults.crash(store, after) as point:
                fix(store, case.derived)
            assert point.fired
            at_rest(store, case.derived)
            assert at_rest(store, case.derived) == {}, after
            assert {len(tables.rows(table)) for table in case.tables} == {2}


@pytest.mark.usefixtures('aged')
class TestLostReplies:
    def test_a_claim_that_is_freed(self, store, tables):
        case = case_of('group')
        (spec,) = case.claim_specs
        tables.delete(case.table, case.make())
        with faults.lose_reply(store, spec.claims.free):
            found = fix(store, case.derived)
        assert found['group_claim'] == {'stale': 1, 'fixed': 1}
        assert not tables.rows('group_claim')

    def test_a_claim_that_is_made(self, store, tables):
        case = case_of('group')
        (spec,) = case.claim_specs
        key = case.make()
        name = tables.name(case.derived, spec, key)
        tables.delete('group_claim', name)
        with faults.lose_reply(store, spec.claims.insert):
            found = fix(store, case.derived)
        assert found == {'group_claim': {'missing': 1, 'fixed': 1}}
        assert tables.claim(spec, name)['owner'] == key['id']

    def test_one_that_nobody_knows_of_is_told(self, store, tables):
        case = case_of('group')
        (spec,) = case.claim_specs
        key = case.make()
        tables.delete(case.table, key)
        said = []
        with faults.fail(store, spec.claims.free, times=2):
            found = fix(store, case.derived, problems=said)
        assert found['group_claim'] == {'stale': 1}
        assert key['id'] in said[0]
        assert fix(store, case.derived) == {
            'group_claim': {'stale': 1, 'fixed': 1}
        }


@pytest.mark.parametrize('maker', ['trust', 'application_credential', 'user'])
def test_two_runs_at_once(store, tables, aged, maker):
    case = case_of(maker)
    spec, table = case.claim_specs[0], case.index_tables[0]
    for _ in range(10):
        tables.delete(case.table, case.make())
        key = case.make()
        tables.delete(spec.claims.table, tables.name(case.derived, spec, key))
        tables.delete(
            table.name, table.key(tables.place(case.derived, table, key))
        )
    failures = []

    def run():
        try:
            fix(store, case.derived)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(faults.PATIENCE)
    assert not failures
    assert at_rest(store, case.derived) == {}
    there = {
        case.table,
        *(each.name for each in case.index_tables),
        *(each.claims.table for each in case.claim_specs),
    }
    assert {len(tables.rows(table)) for table in there} == {10}
