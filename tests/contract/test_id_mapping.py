# SPDX-License-Identifier: Apache-2.0
"""ID mappings: what the driver promises, and equal answers as with SQL."""

import collections
import dataclasses
import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.identity import generator
from keystone.identity.mapping_backends import sql as sql_mapping

from keystone_cassandra_token.drivers.identity import id_mapping
from tests.contract import sql_oracle
from tests.fault import faults

DOMAINS = ['domain-1', 'domain-2']
LOCAL_IDS = ['a', 'b', 'ä']
TYPES = ['user', 'group']
PUBLIC_IDS = ['public-1', 'public-2']

entities = st.fixed_dictionaries(
    {
        'domain_id': st.sampled_from(DOMAINS),
        'local_id': st.sampled_from(LOCAL_IDS),
        'entity_type': st.sampled_from(TYPES),
    }
)
calls = st.one_of(
    st.tuples(st.just('create'), entities, st.none()),
    st.tuples(st.just('create'), entities, st.sampled_from(PUBLIC_IDS)),
    st.tuples(st.just('public'), entities),
    st.tuples(st.just('get'), st.integers(0, 5)),
    st.tuples(st.just('delete'), st.integers(0, 5)),
    st.tuples(
        st.just('domain'),
        st.sampled_from(DOMAINS),
        st.sampled_from([*TYPES, None]),
    ),
    st.tuples(
        st.just('purge'),
        st.fixed_dictionaries(
            {},
            optional={
                'domain_id': st.sampled_from(DOMAINS),
                'local_id': st.sampled_from(LOCAL_IDS),
                'entity_type': st.sampled_from(TYPES),
                'public_id': st.sampled_from(PUBLIC_IDS),
            },
        ),
    ),
)


@pytest.fixture(scope='module')
def ids():
    return generator.Manager()


@pytest.fixture
def ours(store, ids, monkeypatch):
    monkeypatch.setattr(
        id_mapping.IDMappings, 'id_generator_api', ids, raising=False
    )
    return id_mapping.IDMappings()


@pytest.fixture
def theirs(keyspace, ids, monkeypatch):
    monkeypatch.setattr(
        sql_mapping.Mapping, 'id_generator_api', ids, raising=False
    )
    with sql_oracle.sqlite(sql_mapping.IDMapping):
        yield sql_mapping.Mapping()


def play(driver, made, call):
    name, *rest = call
    if name == 'create':
        return driver.create_id_mapping(*rest)
    if name == 'public':
        return driver.get_public_id(rest[0])
    if name in ('get', 'delete'):
        public_id = made[rest[0] % len(made)] if made else 'nobody'
        if name == 'get':
            return driver.get_id_mapping(public_id)
        return driver.delete_id_mapping(public_id)
    if name == 'domain':
        found = driver.get_domain_mapping_list(*rest)
        assert type(found) is list
        return sorted(
            tuple(
                getattr(each, column) for column in id_mapping.MAPPING.columns
            )
            for each in found
        )
    return driver.purge_mappings(rest[0])


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=8, max_size=20))
    def compare(sequence):
        ours.purge_mappings({})
        theirs.purge_mappings({})
        made = []
        for call in sequence:
            expected, answer = (
                play(each, made, call) for each in (theirs, ours)
            )
            assert answer == expected, call
            if call[0] == 'create' and answer:
                made.append(answer)
        left = (
            sorted(
                play(each, made, ('domain', domain, None))
                for domain in DOMAINS
            )
            for each in (theirs, ours)
        )
        assert next(left) == next(left)

    compare()


def entity(**more):
    return {
        'domain_id': uuid.uuid4().hex,
        'local_id': uuid.uuid4().hex,
        'entity_type': 'user',
        **more,
    }


def test_one_direction_is_one_read_and_the_other_two(ours, store):
    local = entity()
    public_id = ours.create_id_mapping(local)
    with faults.counted(store) as sent:
        assert ours.get_public_id(local) == public_id
        assert ours.get_id_mapping(public_id) == local | {
            'public_id': public_id
        }
    # The row that is found by its local id may have outlived its mapping.
    by_local = [(id_mapping.GET_BY_LOCAL,), (id_mapping.GET,)]
    assert sent == [*by_local, (id_mapping.GET,)]


def test_created_from_two_sides_at_once(ours):
    local = entity()
    created = []
    start = threading.Barrier(8)

    def create():
        start.wait(faults.PATIENCE)
        created.append(ours.create_id_mapping(local))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(faults.PATIENCE)
    assert len(created) == 8
    assert set(created) == {ours.get_public_id(local)}
    (listed,) = ours.get_domain_mapping_list(local['domain_id'])
    assert dataclasses.asdict(listed) == local | {'public_id': created[0]}


@pytest.mark.parametrize('given', [False, True])
def test_what_a_crash_leaves_in_a_list_is_there(ours, store, given):
    ids = collections.defaultdict(lambda: uuid.uuid4().hex)

    def create(local):
        # Of one entity the same each time.
        public_id = ids[local['local_id']] if given else None
        return ours.create_id_mapping(local, public_id)

    def state(local):
        public_id = ours.get_public_id(local)
        listed = ours.get_domain_mapping_list(local['domain_id'])
        assert all(ours.get_id_mapping(each.public_id) for each in listed)
        return public_id is not None, bool(listed)

    for _, local in faults.each_crash(store, entity, create):
        state(local)
        assert create(local)
        assert state(local) == (True, True)

    def prepare():
        local = entity()
        return ours.create_id_mapping(local), local

    for _, (public_id, local) in faults.each_crash(
        store, prepare, lambda made: ours.delete_id_mapping(made[0])
    ):
        state(local)
        ours.delete_id_mapping(public_id)
        assert state(local) == (False, False)
        assert ours.get_id_mapping(public_id) is None


@pytest.mark.parametrize('given', [None, 'given'])
def test_what_its_local_id_alone_leads_to_is_written_again(ours, store, given):
    """Else an id would be given out that nobody knows anything of."""
    local = entity()
    public_id = ours.create_id_mapping(local, given and uuid.uuid4().hex)
    lost = store.one(id_mapping.GET, id_mapping.MAPPING, public_id=public_id)
    written_at = {'written_at': lost['written_at']}
    store.run(id_mapping.DELETE, public_id=public_id, **written_at)
    (row,) = id_mapping.DOMAINS.rows(lost)
    listed = id_mapping.DOMAINS.key(row)
    store.run(id_mapping.DOMAINS.delete_older, **listed, **written_at)
    assert ours.get_public_id(local) is None
    assert ours.get_id_mapping(public_id) is None

    again = ours.create_id_mapping(local, given and public_id)
    assert again == public_id
    mapping = local | {'public_id': public_id}
    assert ours.get_id_mapping(public_id) == mapping
    (found,) = ours.get_domain_mapping_list(local['domain_id'])
    assert found.to_dict() == mapping


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides_a_deletion(ours, store, seconds):
    """Deleted by a server whose clock is off, then made again."""
    local = entity()
    public_id = ours.create_id_mapping(local)
    with faults.clock_off_by(store, seconds):
        ours.delete_id_mapping(public_id)
    assert ours.get_public_id(local) is None
    assert ours.get_id_mapping(public_id) is None
    assert ours.get_domain_mapping_list(local['domain_id']) == []
    assert ours.create_id_mapping(local) == public_id
    assert ours.get_public_id(local) == public_id
    assert ours.get_id_mapping(public_id)
    assert len(ours.get_domain_mapping_list(local['domain_id'])) == 1


@pytest.mark.parametrize(
    ('name', 'longest'), [('domain_id', 64), ('local_id', 255)]
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, name, longest):
    with pytest.raises(exception.StringLengthExceeded):
        ours.create_id_mapping(entity(**{name: 'x' * (longest + 1)}))
