# SPDX-License-Identifier: Apache-2.0
"""Repair beside servers that write, that die, and beside itself."""

from __future__ import annotations

import datetime
import threading
import time
import uuid

import pytest

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
from tests.contract.damage import KINDS, case_of, mend
from tests.fault import faults

EVERY_LINK = pytest.mark.parametrize(
    ('case', 'link'),
    damage.LINKS,
    ids=[f'{case}-{link.table}' for case, link in damage.LINKS],
)
EVERY_CLAIM = pytest.mark.parametrize(
    ('case', 'names'),
    damage.NAMES,
    ids=[f'{case}-{names.claims.table}' for case, names in damage.NAMES],
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


@EVERY_LINK
def test_made_again_before_a_row_is_removed(store, tables, aged, case, link):
    """Same id and values, so that for some it is the very same row."""
    key, again = case.make_again()
    tables.delete(case.table, key)
    time.sleep(0.01)
    with Meanwhile(store, link.delete_older, lambda: mend(store, case.kind)):
        again()
    place = tables.place(case.kind, link, key)
    assert link.fits(place, tables.row(link, place))
    mend(store, case.kind)
    assert mend(store, case.kind) == {}
    assert link.fits(place, tables.row(link, place))


@EVERY_LINK
def test_gone_before_a_row_is_added(store, tables, aged, case, link):
    key = case.make()
    truth = tables.truth(case.kind, key)
    place = tables.place(case.kind, link, key)
    tables.delete(link.table, link.key(place))
    put = link.put if truth['ttl_left'] is None else link.put_expiring
    with Meanwhile(store, put, lambda: mend(store, case.kind)) as other:
        tables.delete(case.table, key)
    assert not tables.rows(link.table)
    assert link.table not in other.result


def test_deleted_before_a_row_is_added(store, tables, aged):
    """By a server, which removes the index rows before that one comes."""
    case = case_of('credential')
    key = case.make()
    place = tables.place(case.kind, credential.BY_TYPE, key)
    tables.delete('credential_by_type', place)
    with Meanwhile(
        store, credential.BY_TYPE.put, lambda: mend(store, case.kind)
    ):
        credential.Credential().delete_credential(key['id'])
    assert not any(tables.contents(case.kind).values())


def test_moved_before_a_row_is_added(store, tables, aged):
    case = case_of('credential')
    key = case.make()
    place = tables.place(case.kind, credential.BY_TYPE, key)
    tables.delete('credential_by_type', place)
    with Meanwhile(
        store, credential.BY_TYPE.put, lambda: mend(store, case.kind)
    ):
        credential.Credential().update_credential(key['id'], {'type': 'new'})
    (row,) = tables.rows('credential_by_type')
    assert 'new' in row
    assert mend(store, case.kind) == {}


@pytest.mark.parametrize('traces', [False, True])
def test_a_mapping_that_is_deleted_meanwhile(store, tables, aged, traces):
    case = case_of('id_mapping')
    key = case.make()
    for link in case.links:
        place = tables.place(case.kind, link, key)
        if traces:
            tables.delete(link.table, link.key(place))
        else:
            tables.execute(f'TRUNCATE {tables.keyspace}.{link.table}')
    with Meanwhile(
        store, id_mapping.LOCALS.put, lambda: mend(store, case.kind)
    ):
        id_mapping.IDMappings().delete_id_mapping(key['public_id'])
    assert not any(tables.contents(case.kind).values())


def test_a_grant_that_is_removed_meanwhile(store, tables, aged):
    case = case_of('grant')
    key = case.make()
    for link in case.links:
        tables.execute(f'TRUNCATE {tables.keyspace}.{link.table}')
    with Meanwhile(store, grants.ACTORS.put, lambda: mend(store, case.kind)):
        grants.remove(store, grants.GRANTS.find(store, **key))
    assert not any(tables.contents(case.kind).values())


def test_deleted_behind_the_scan(store, tables, aged):
    """The row that the scan saw is gone by then: no damage."""
    case = case_of('credential')
    key = case.make()
    with Meanwhile(
        store, case.kind.find, lambda: mend(store, case.kind, apply=False)
    ) as other:
        credential.Credential().delete_credential(key['id'])
    assert other.result == {}


@EVERY_CLAIM
@pytest.mark.parametrize('where', ['set_pending', 'free_pending'])
def test_an_owner_comes_back_while_its_claim_is_freed(
    store, tables, aged, case, names, where
):
    """With the same id, at the worst moments."""
    key, again = case.make_again()
    name = tables.name(case.kind, names, key)
    expiring = tables.truth(case.kind, key)['ttl_left'] is not None
    tables.delete(case.table, key)
    if where == 'set_pending' and expiring:
        where = 'set_pending_expiring'
    target = getattr(names.claims, where)
    time.sleep(0.01)
    with Meanwhile(store, target, lambda: mend(store, case.kind)):
        again()
    (owner,) = key.values()
    claim = tables.claim(names, name)
    assert (claim['owner'], claim['state']) == (owner, 'held')
    mend(store, case.kind)
    assert mend(store, case.kind) == {}
    assert tables.claim(names, name)['owner'] == owner


@pytest.mark.parametrize('by', ['its owner', 'another'])
def test_a_claim_that_was_changed_behind_the_scan(store, tables, aged, by):
    case = case_of('group')
    (names,) = case.names
    key = case.make()
    name = tables.name(case.kind, names, key)
    tables.delete(case.table, key)
    owner = key['id'] if by == 'its owner' else uuid.uuid4().hex
    target = names.claims.settle_lasting
    with Meanwhile(store, target, lambda: mend(store, case.kind)) as other:
        tables.make_claim(names, name, 'pending', owner=owner)
    assert tables.claim(names, name)['owner'] == owner
    assert other.result.get('group_claim') == (
        {'young': 1} if by == 'its owner' else None
    )


@EVERY_CLAIM
def test_gone_while_its_claim_is_made(store, tables, aged, case, names):
    key = case.make()
    name = tables.name(case.kind, names, key)
    expiring = tables.truth(case.kind, key)['ttl_left'] is not None
    tables.delete(names.claims.table, name)
    claims = names.claims
    target = claims.insert_expiring if expiring else claims.insert
    with (
        faults.counted(store) as sent,
        Meanwhile(store, target, lambda: mend(store, case.kind)) as other,
    ):
        tables.delete(case.table, key)
    assert tables.claim(names, name) is None
    assert claims.table not in other.result
    # Not even for a moment is it more than pending.
    assert not {(claims.set_held,), (claims.set_held_expiring,)} & {*sent}


@pytest.mark.parametrize('maker', ['user', 'group'])
@pytest.mark.parametrize('where', ['insert', 'set_held'])
def test_renamed_while_its_claim_is_made(store, tables, aged, maker, where):
    case = case_of(maker)
    names = case.names[0]
    key = case.make()
    name = tables.name(case.kind, names, key)
    tables.delete(names.claims.table, name)
    target = getattr(names.claims, where)
    driver = identity.Identity()
    change = driver.update_user if maker == 'user' else driver.update_group
    with Meanwhile(store, target, lambda: mend(store, case.kind)) as other:
        change(key['id'], {'name': 'new'})
    assert names.claims.table not in other.result
    assert tables.claim(names, name) is None
    new = tables.name(case.kind, names, key)
    assert tables.claim(names, new)['state'] == 'held'
    assert mend(store, case.kind) == {}


def test_renamed_after_its_claim_was_looked_after(store, tables, monkeypatch):
    """By a server that found no claim to free, and now is slow."""
    case = case_of('group')
    (names,) = case.names
    key = case.make()
    name = tables.name(case.kind, names, key)
    tables.delete('group_claim', name)
    time.sleep(0.05)
    marker = clock.utcnow()
    rename = identity.Identity().update_group
    server = Meanwhile(
        store,
        groups.GROUPS.entity.update,
        lambda: rename(key['id'], {'name': 'new'}),
    )
    with server:
        monkeypatch.setattr(reconcile, 'YOUNG', clock.utcnow() - marker)
        mending = Meanwhile(
            store, names.claims.set_held, lambda: mend(store, case.kind)
        )
        with mending:
            server.finish()
    assert 'missing' not in mending.result['group_claim']
    assert tables.claim(names, name) is None
    new = tables.name(case.kind, names, key)
    assert tables.claim(names, new)['state'] == 'held'


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
            assert tables.rows(case.links[0].table)
            assert mend(store, case.kind)[case.links[0].table] == {'young': 1}
        assert len(tables.rows(case.table)) == 1
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert mend(store, case.kind) == {}

    @pytest.mark.parametrize('name', ['update_user', 'delete_user'])
    def test_rename_and_deletion(self, store, tables, monkeypatch, name):
        case = case_of('user')
        key = case.make()
        time.sleep(0.05)
        marker = clock.utcnow()
        change = getattr(identity.Identity(), name)
        arguments = [{'name': 'new'}] if name == 'update_user' else []
        entity = users.USERS.entity
        target = entity.update if arguments else entity.delete
        with Meanwhile(store, target, lambda: change(key['id'], *arguments)):
            self.since(monkeypatch, marker)
            found = mend(store, case.kind)
            assert not any('mended' in counts for counts in found.values())
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert mend(store, case.kind) == {}
        assert len(tables.rows('user_claim')) == len(arguments)
        assert len(tables.rows('user_by_domain')) == len(arguments)

    @pytest.mark.parametrize(
        'target', [MEMBERSHIPS.insert, MEMBERSHIPS.delete]
    )
    def test_membership(self, store, tables, monkeypatch, target):
        case = case_of('membership')
        leaves = target is MEMBERSHIPS.delete
        key = case.make() if leaves else damage.fresh('user_id', 'group_id')
        time.sleep(0.05)
        marker = clock.utcnow()
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
            assert not mend(store, case.kind).get('mended')
        monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
        assert mend(store, case.kind) == {}
        assert len(tables.rows('membership_by_group')) == (not leaves)


@pytest.mark.usefixtures('aged')
class TestCrashes:
    """What a server that died leaves, at each of its steps."""

    def whole(self, store, tables, maker, after):
        case = case_of(maker)
        found = mend(store, case.kind)
        assert mend(store, case.kind) == {}, after
        for link in case.links:
            assert len(tables.rows(link.table)) == len(tables.rows(case.table))
        return sum(counts.get('mended', 0) for counts in found.values())

    @pytest.mark.parametrize(
        'maker', ['user', 'application_credential', 'credential', 'membership']
    )
    def test_create(self, store, tables, maker):
        mended = 0
        for after, _ in faults.each_crash(
            store, lambda: None, lambda _: case_of(maker).make()
        ):
            mended += self.whole(store, tables, maker, after)
        assert mended

    @pytest.mark.parametrize('name', ['update_user', 'delete_user'])
    def test_rename_and_delete(self, store, tables, name):
        mended = 0
        change = getattr(identity.Identity(), name)
        for after, key in faults.each_crash(
            store,
            case_of('user').make,
            lambda key: change(
                key['id'],
                *([{'name': uuid.uuid4().hex}] if 'update' in name else []),
            ),
        ):
            mended += self.whole(store, tables, 'user', after)
            there = tables.truth(KINDS['user'], key) is not None
            owners = {row[-2] for row in tables.rows('user_claim')}
            assert (key['id'] in owners) is there
        assert mended

    def test_leave(self, store, tables):
        mended = 0

        def leave(key):
            MEMBERSHIPS.remove(store, **key)

        for after, _ in faults.each_crash(
            store, case_of('membership').make, leave
        ):
            mended += self.whole(store, tables, 'membership', after)
        assert mended

    def test_repair_itself(self, store, tables):
        """Each of its steps leaves what the next run mends."""
        case = case_of('group')
        (link,), (names,) = case.links, case.names

        def prepare():
            tables.empty()
            tables.delete(case.table, case.make())
            place = tables.place(case.kind, link, case.make())
            tables.delete(link.table, place)
            key = case.make()
            name = tables.name(case.kind, names, key)
            tables.delete(names.claims.table, name)

        prepare()
        with faults.counted(store) as sent:
            mend(store, case.kind)
        writes = [
            number
            for number, batch in enumerate(sent)
            if batch[0].verb != 'SELECT'
        ]
        assert len(writes) == 6
        for after in sorted({*writes, *(number + 1 for number in writes)}):
            prepare()
            with faults.crash(store, after) as point:
                mend(store, case.kind)
            assert point.fired
            mend(store, case.kind)
            assert mend(store, case.kind) == {}, after
            assert {len(tables.rows(table)) for table in case.tables} == {2}


@pytest.mark.usefixtures('aged')
class TestLostReplies:
    @pytest.mark.parametrize('target', ['set_pending', 'free_pending'])
    def test_a_claim_that_is_freed(self, store, tables, target):
        case = case_of('group')
        (names,) = case.names
        tables.delete(case.table, case.make())
        with faults.lose_reply(store, getattr(names.claims, target)):
            found = mend(store, case.kind)
        assert found['group_claim'] == {'held': 1, 'mended': 1}
        assert not tables.rows('group_claim')

    @pytest.mark.parametrize('target', ['insert', 'set_held'])
    def test_a_claim_that_is_made(self, store, tables, target):
        case = case_of('group')
        (names,) = case.names
        key = case.make()
        name = tables.name(case.kind, names, key)
        tables.delete('group_claim', name)
        with faults.lose_reply(store, getattr(names.claims, target)):
            found = mend(store, case.kind)
        assert found == {'group_claim': {'missing': 1, 'mended': 1}}
        assert tables.claim(names, name)['state'] == 'held'

    def test_one_that_nobody_knows_of_is_told(self, store, tables):
        case = case_of('group')
        (names,) = case.names
        key = case.make()
        tables.delete(case.table, key)
        said = []
        with faults.fail(store, names.claims.free_pending):
            found = mend(store, case.kind, problems=said)
        assert found['group_claim'] == {'held': 1}
        assert key['id'] in said[0]
        assert mend(store, case.kind) == {
            'group_claim': {'pending': 1, 'mended': 1}
        }


@pytest.mark.parametrize('maker', ['trust', 'application_credential', 'user'])
def test_two_runs_at_once(store, tables, aged, maker):
    case = case_of(maker)
    names, link = case.names[0], case.links[0]
    for _ in range(10):
        tables.delete(case.table, case.make())
        key = case.make()
        tables.delete(names.claims.table, tables.name(case.kind, names, key))
        tables.delete(link.table, link.key(tables.place(case.kind, link, key)))
    failures = []

    def run():
        try:
            mend(store, case.kind)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(faults.PATIENCE)
    assert not failures
    assert mend(store, case.kind) == {}
    there = {
        case.table,
        *(each.table for each in case.links),
        *(each.claims.table for each in case.names),
    }
    assert {len(tables.rows(table)) for table in there} == {10}
