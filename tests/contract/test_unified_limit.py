# SPDX-License-Identifier: Apache-2.0
"""Limits: what the driver promises, and equal answers as with SQL."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.catalog.backends import sql as sql_catalog
from keystone.common import sql
from keystone.common.driver_hints import Hints
from keystone.limit.backends import sql as sql_limit

from keystone_cassandra_token.drivers.limit import driver as unified_limit
from keystone_cassandra_token.drivers.limit.limits import (
    BY_PROJECT,
    BY_REGISTERED_LIMIT,
    LIMITS,
    REGISTERED_LIMITS,
)
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (sql_limit.LimitModel, sql_limit.RegisteredLimitModel)
TABLES = (
    'registered_limit',
    'registered_limit_claim',
    'limit',
    'limit_by_project',
    'limit_by_domain',
    'limit_by_registered_limit',
    'limit_claim',
)
SERVICES = ['service-1', 'service-2']
REGIONS = ['region-1', None]
RESOURCES = ['volume', 'snapshot']
PROJECTS = ['project-1', 'project-2']
NUMBERS = st.integers(0, 5)
AMOUNTS = st.sampled_from([-1, 0, 1, 2, 2.0])
NOTES = st.sampled_from(['x', '', None])

called = {
    'service_id': st.sampled_from(SERVICES),
    'resource_name': st.sampled_from(RESOURCES),
}
region = {'region_id': st.sampled_from(REGIONS)}
registered = st.fixed_dictionaries(
    {**called, 'default_limit': AMOUNTS},
    optional={**region, 'description': NOTES},
)
registered_changes = st.fixed_dictionaries(
    {},
    optional={
        **called,
        **region,
        'default_limit': AMOUNTS,
        'description': NOTES,
        'id': st.just('ignored'),
    },
)
# One that a deletion is likely to meet, too.
limit = st.builds(
    lambda values, target: values | target,
    st.fixed_dictionaries(
        {**called, 'resource_limit': AMOUNTS},
        optional={**region, 'description': NOTES},
    ),
    st.one_of(
        st.builds(
            lambda project: {'project_id': project}, st.sampled_from(PROJECTS)
        ),
        st.just({'domain_id': 'domain-1'}),
        st.just({'domain_id': 'domain-1', 'project_id': None}),
    ),
)
limit_changes = st.fixed_dictionaries(
    {},
    optional={
        'resource_limit': AMOUNTS,
        'description': NOTES,
        'project_id': st.just('ignored'),
    },
)
filters = st.lists(
    st.sampled_from(
        [
            ('service_id', SERVICES[0], 'equals'),
            ('region_id', REGIONS[0], 'equals'),
            ('region_id', None, 'equals'),
            ('resource_name', RESOURCES[0], 'equals'),
            ('resource_name', 'S', 'startswith'),
            ('resource_name', 'u', 'contains'),
            ('description', 'x', 'equals'),
            ('project_id', PROJECTS[0], 'equals'),
            ('project_id', 'x' * 65, 'equals'),
            ('domain_id', 'domain-1', 'equals'),
            ('nothing', 'x', 'equals'),
        ]
    ),
    max_size=2,
    unique_by=lambda entry: entry[0],
)
limit_of_list = st.sampled_from([None, 1, 2, 10])


def some(values):
    return st.lists(values, min_size=1, max_size=3)


calls = st.one_of(
    st.tuples(st.just('create_registered_limits'), some(registered)),
    st.tuples(st.just('create_registered_limits'), some(registered)),
    st.tuples(st.just('update_registered_limit'), NUMBERS, registered_changes),
    st.tuples(st.just('get_registered_limit'), NUMBERS),
    st.tuples(st.just('delete_registered_limit'), NUMBERS),
    st.tuples(st.just('list_registered_limits'), filters, limit_of_list),
    st.tuples(st.just('create_limits'), some(limit)),
    st.tuples(st.just('create_limits'), some(limit)),
    st.tuples(st.just('create_limits'), some(limit)),
    st.tuples(st.just('update_limit'), NUMBERS, limit_changes),
    st.tuples(st.just('get_limit'), NUMBERS),
    st.tuples(st.just('delete_limit'), NUMBERS),
    st.tuples(st.just('list_limits'), filters, limit_of_list),
    st.tuples(st.just('delete_limits_for_project'), st.sampled_from(PROJECTS)),
    # An id that is in use already.
    st.tuples(st.just('repeat_registered_limit'), NUMBERS, registered),
    st.tuples(st.just('repeat_limit'), NUMBERS, limit),
)


@pytest.fixture
def ours(store):
    return unified_limit.UnifiedLimit()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(
        sql_catalog.Service, sql_catalog.Region, *reversed(MODELS)
    ):
        with sql.session_for_write() as session:
            for service in SERVICES:
                session.add(sql_catalog.Service(id=service, type='type'))
            session.add(sql_catalog.Region(id=REGIONS[0], description=''))
        yield sql_limit.UnifiedLimit()


class Run:
    """One sequence of calls: the ids that it has made so far."""

    def __init__(self):
        self.ids = {'registered': ['none'], 'limit': ['none']}

    def prepared(self, call):
        """Return a call with ids for what it makes and what it is about."""
        name, *rest = call
        kind = 'registered' if 'registered' in name else 'limit'
        ids = self.ids[kind]
        if name.startswith('create_'):
            made = [each | {'id': uuid.uuid4().hex} for each in rest[0]]
            ids += [each['id'] for each in made]
            return name, made
        if name.startswith('repeat_'):
            again = rest[1] | {'id': ids[rest[0] % len(ids)]}
            plural = {'registered': 'registered_limits', 'limit': 'limits'}
            ids.append(again['id'])
            return f'create_{plural[kind]}', [again]
        if rest and isinstance(rest[0], int):
            # The last ones, of which most are there.
            return name, ids[-1 - rest[0] % len(ids)], *rest[1:]
        return call


def play(driver, call):
    """Make one call; return what it said, or what it raised."""
    name, *rest = call
    try:
        if name.startswith('list_'):
            return listed(getattr(driver, name), *rest)
        said = getattr(driver, name)(*rest)
    except exception.Error as error:
        return type(error), str(error)
    return sorted(said) if name == 'delete_limits_for_project' else said


def listed(method, wanted, longest):
    hints = Hints()
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if longest:
        hints.set_limit(longest)
    found = method(hints)
    assert type(found) is list
    left = sorted(entry['name'] for entry in hints.filters)
    if hints.cannot_match or any(len(w[1] or '') > 64 for w in wanted):
        left = None  # SQL stops at what cannot be
    if hints.limit and hints.limit['truncated']:
        # Which ones are left out is anybody's choice.
        return len(found), left, True
    return sorted(found, key=lambda each: each['id']), left, False


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=10, max_size=25))
    def compare(sequence):
        empty(store, keyspace)
        sql_oracle.empty(*MODELS)
        run = Run()
        for drawn in sequence:
            call = run.prepared(drawn)
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            failed = isinstance(expected, tuple) and isinstance(
                expected[0], type
            )
            seen.add((call[0], expected[0] if failed else None))

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 10
    assert {
        ('create_registered_limits', exception.Conflict),
        ('create_limits', exception.NoLimitReference),
        ('create_limits', None),
    } <= seen


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in TABLES:
        if rows(store, keyspace, table, 'LIMIT 1'):
            session.execute(f'TRUNCATE {keyspace}."{table}"', timeout=60)


def rows(store, keyspace, table, more=''):
    session = store.sessions.get().session
    return list(session.execute(f'SELECT * FROM {keyspace}."{table}" {more}'))


def new(**more):
    return {
        'id': uuid.uuid4().hex,
        'service_id': uuid.uuid4().hex,
        'region_id': None,
        'resource_name': 'volume',
        'default_limit': 10,
        'description': None,
        **more,
    }


def new_limit(registered_limit, **more):
    return {
        'id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'domain_id': None,
        'resource_limit': 5,
        'description': None,
        **{
            name: registered_limit[name]
            for name in ('service_id', 'region_id', 'resource_name')
        },
        **more,
    }


def make(driver, **more):
    (made,) = driver.create_registered_limits([new(**more)])
    return made


def make_limit(driver, registered_limit, **more):
    (made,) = driver.create_limits([new_limit(registered_limit, **more)])
    return made


def hints_for(**wanted):
    hints = Hints()
    for name, value in wanted.items():
        hints.add_filter(name, value)
    return hints


class TestReads:
    def test_to_get_one_is_one_read(self, ours, store):
        registered_limit = make(ours)
        made = make_limit(ours, registered_limit)
        with faults.counted(store) as sent:
            assert ours.get_limit(made['id']) == made
            found = ours.get_registered_limit(registered_limit['id'])
        assert found == registered_limit
        assert sent == [
            (LIMITS.entity.get,),
            (REGISTERED_LIMITS.entity.get,),
        ]

    def test_all_registered_limits_are_one_read(self, ours, store):
        made = [make(ours) for _ in range(3)]
        with faults.counted(store) as sent:
            found = ours.list_registered_limits(Hints())
        assert sent == [(REGISTERED_LIMITS.entity.get_all,)]
        assert [each for each in made if each not in found] == []

    def test_a_project_is_read_alone(self, ours, store):
        registered_limits = [make(ours) for _ in range(3)]
        for each in registered_limits:
            make_limit(ours, each)
        project_id = uuid.uuid4().hex
        mine = [
            make_limit(ours, each, project_id=project_id)
            for each in registered_limits
        ]
        with faults.counted(store) as sent:
            found = ours.list_limits(hints_for(project_id=project_id))
        assert sent == [(BY_PROJECT.list,), (LIMITS.entity.get_some,)]
        assert by_id(found) == by_id(mine)
        with faults.counted(store) as sent:
            one = hints_for(
                project_id=project_id, service_id=mine[1]['service_id']
            )
            assert ours.list_limits(one) == [mine[1]]
        assert len(sent) == 2

    def test_a_service_is_read_by_its_registered_limits(self, ours, store):
        registered_limit = make(ours)
        make_limit(ours, make(ours))
        made = make_limit(ours, registered_limit)
        service = registered_limit['service_id']
        with faults.counted(store) as sent:
            found = ours.list_limits(hints_for(service_id=service))
        assert found == [made]
        assert sent == [
            (REGISTERED_LIMITS.entity.get_all,),
            (BY_REGISTERED_LIMIT.list,),
            (LIMITS.entity.get_some,),
        ]

    @pytest.mark.parametrize('name', ['project_id', 'domain_id'])
    def test_nobody_has_an_empty_id(self, ours, name):
        make_limit(ours, make(ours))
        assert ours.list_limits(hints_for(**{name: ''})) == []

    def test_a_limited_list_is_cut(self, ours):
        for _ in range(4):
            make_limit(ours, make(ours))
        hints = Hints()
        hints.set_limit(2)
        assert len(ours.list_limits(hints)) == 2
        assert hints.limit['truncated']


def by_id(found):
    return sorted(found, key=lambda each: each['id'])


class TestNames:
    def test_they_are_folded_as_the_keyspace_says(self, ours):
        made = make(ours, resource_name='Ärger')
        with pytest.raises(exception.Conflict):
            make(ours, service_id=made['service_id'], resource_name='äRGER')
        shown = make_limit(ours, made, resource_name='äRGER')
        assert shown['resource_name'] == 'Ärger'
        wanted = hints_for(
            service_id=made['service_id'], resource_name='ärger'
        )
        assert ours.list_limits(wanted) == [shown]

    def test_ids_compare_exactly(self, ours):
        made = make(ours, region_id='region')
        other = make(ours, service_id=made['service_id'], region_id='REGION')
        for each in (made, other):
            wanted = hints_for(
                service_id=made['service_id'], region_id=each['region_id']
            )
            assert ours.list_registered_limits(wanted) == [each]

    def test_no_region_is_a_value(self, ours):
        made = make(ours)
        elsewhere = make(
            ours, service_id=made['service_id'], region_id='region'
        )
        for each in (made, elsewhere):
            with pytest.raises(exception.Conflict):
                ours.create_registered_limits(
                    [each | {'id': uuid.uuid4().hex}]
                )
            shown = make_limit(ours, each)
            assert shown['region_id'] == each['region_id']

    def test_a_new_name_frees_the_old_one(self, ours):
        made = make(ours)
        changed = ours.update_registered_limit(
            made['id'], {'resource_name': 'other'}
        )
        assert changed == made | {'resource_name': 'other'}
        again = make(ours, service_id=made['service_id'])
        with pytest.raises(exception.Conflict):
            ours.update_registered_limit(
                again['id'], {'resource_name': 'OTHER'}
            )

    @pytest.mark.parametrize(
        ('name', 'longest'),
        [
            ('id', 64),
            ('service_id', 255),
            ('region_id', 64),
            ('resource_name', 255),
        ],
    )
    def test_what_is_too_long_for_sql(self, ours, name, longest):
        too_long = {name: 'x' * (longest + 1)}
        with pytest.raises(exception.StringLengthExceeded):
            make(ours, **too_long)
        if name != 'id':
            made = make(ours)
            with pytest.raises(exception.StringLengthExceeded):
                ours.update_registered_limit(made['id'], too_long)

    @pytest.mark.parametrize('name', ['id', 'project_id', 'domain_id'])
    def test_a_limit_that_is_too_long_for_sql(self, ours, name):
        with pytest.raises(exception.StringLengthExceeded):
            make_limit(ours, make(ours), **{name: 'x' * 65})


class TestSeveral:
    def test_many_are_made_at_once(self, ours, store):
        service = uuid.uuid4().hex
        wanted = [
            new(
                service_id=service,
                resource_name=f'resource {number}',
                description='x' * 255,
            )
            for number in range(300)
        ]
        with faults.counted(store) as sent:
            assert ours.create_registered_limits(wanted) == wanted
        inserts = (REGISTERED_LIMITS.entity.insert,) * 300
        assert sent.count(inserts) == 1
        found = ours.list_registered_limits(hints_for(service_id=service))
        assert by_id(found) == by_id(wanted)

    @pytest.mark.parametrize('at', [0, 1, 2])
    def test_one_that_is_taken_leaves_nothing(self, ours, store, keyspace, at):
        taken = make(ours)
        service = uuid.uuid4().hex
        wanted = [
            new(service_id=service, resource_name=str(number))
            for number in range(3)
        ]
        wanted[at] = taken | {'id': uuid.uuid4().hex}
        before = counted(store, keyspace)
        with pytest.raises(exception.Conflict):
            ours.create_registered_limits(wanted)
        assert counted(store, keyspace) == before

    @pytest.mark.parametrize('at', [0, 1, 2])
    @pytest.mark.parametrize(
        ('why', 'error'),
        [
            ('taken', exception.Conflict),
            ('unregistered', exception.NoLimitReference),
        ],
    )
    def test_a_limit_that_cannot_be_leaves_nothing(
        self, ours, store, keyspace, at, why, error
    ):
        registered_limit = make(ours)
        taken = make_limit(ours, registered_limit)
        wanted = [new_limit(registered_limit) for _ in range(3)]
        wanted[at] = {
            'taken': taken | {'id': uuid.uuid4().hex},
            'unregistered': wanted[at] | {'resource_name': 'other'},
        }[why]
        before = counted(store, keyspace)
        with pytest.raises(error):
            ours.create_limits(wanted)
        assert counted(store, keyspace) == before

    def test_two_equal_ones_are_none(self, ours, store, keyspace):
        registered_limit = make(ours)
        before = counted(store, keyspace)
        twice = new()
        with pytest.raises(exception.Conflict):
            ours.create_registered_limits(
                [twice, twice | {'id': uuid.uuid4().hex}]
            )
        with pytest.raises(exception.Conflict):
            ours.create_registered_limits(
                [twice, twice | {'resource_name': 'another'}]
            )
        mine = new_limit(registered_limit)
        with pytest.raises(exception.Conflict):
            ours.create_limits([mine, mine | {'id': uuid.uuid4().hex}])
        with pytest.raises(exception.Conflict):
            ours.create_limits([mine, mine | {'project_id': 'another'}])
        assert counted(store, keyspace) == before

    def test_nothing_is_nothing(self, ours):
        assert ours.create_registered_limits([]) == []
        assert ours.create_limits([]) == []


def counted(store, keyspace):
    return {table: len(rows(store, keyspace, table)) for table in TABLES}


def test_one_in_use_stays_as_it_is(ours):
    made = make(ours)
    limit = make_limit(ours, made)
    for call in (
        lambda: ours.delete_registered_limit(made['id']),
        lambda: ours.update_registered_limit(
            made['id'], {'resource_name': 'other'}
        ),
        lambda: ours.update_registered_limit(
            made['id'], {'description': 'other'}
        ),
    ):
        with pytest.raises(exception.RegisteredLimitError):
            call()
    assert ours.get_registered_limit(made['id']) == made
    ours.delete_limit(limit['id'])
    ours.delete_registered_limit(made['id'])
    with pytest.raises(exception.RegisteredLimitNotFound):
        ours.get_registered_limit(made['id'])


def test_a_refusal_writes_nothing(ours, store):
    made = make(ours)
    make_limit(ours, made)
    with (
        faults.counted(store) as sent,
        pytest.raises(exception.RegisteredLimitError),
    ):
        ours.delete_registered_limit(made['id'])
    assert {s.verb for each in sent for s in each} == {'SELECT'}


def test_one_without_its_number_is_refused(ours, theirs):
    made = make(ours)
    for driver in (ours, theirs):
        for lacking in (
            new(service_id=SERVICES[0], default_limit=None),
            {
                name: value
                for name, value in new(service_id=SERVICES[0]).items()
                if name != 'default_limit'
            },
        ):
            with pytest.raises(exception.UnexpectedError):
                driver.create_registered_limits([lacking])
    with pytest.raises(exception.UnexpectedError):
        ours.update_registered_limit(made['id'], {'default_limit': None})
    with pytest.raises(exception.UnexpectedError):
        make_limit(ours, made, resource_limit=None)


@pytest.mark.parametrize('empty', [None, ''])
def test_one_of_nobody_is_refused(ours, store, keyspace, empty):
    registered_limit = make(ours)
    before = counted(store, keyspace)
    nobodys = new_limit(registered_limit, project_id=empty, domain_id=empty)
    for refused in (
        nobodys,
        {
            name: value
            for name, value in nobodys.items()
            if name not in ('project_id', 'domain_id')
        },
    ):
        with pytest.raises(exception.ValidationError):
            ours.create_limits([new_limit(registered_limit), refused])
    assert counted(store, keyspace) == before
    ours.delete_registered_limit(registered_limit['id'])


def test_a_whole_number_may_come_as_a_float(ours, theirs):
    """Keystone's JSON schema takes 10.0 for an integer."""
    for driver in (ours, theirs):
        made = make(
            driver,
            service_id=SERVICES[0],
            resource_name=uuid.uuid4().hex,
            default_limit=10.0,
        )
        assert made['default_limit'] == 10
        got = driver.get_registered_limit(made['id'])['default_limit']
        assert (got, type(got)) == (10, int)
        driver.update_registered_limit(made['id'], {'default_limit': 11.0})
        got = driver.get_registered_limit(made['id'])['default_limit']
        assert (got, type(got)) == (11, int)
        limit = make_limit(driver, made, resource_limit=5.0)['id']
        got = driver.get_limit(limit)['resource_limit']
        assert (got, type(got)) == (5, int)
        driver.update_limit(limit, {'resource_limit': 6.0})
        got = driver.get_limit(limit)['resource_limit']
        assert (got, type(got)) == (6, int)


GHOST_ROWS = {
    'of nothing': {'default_limit': 7},
    'of a number': {'default_limit': 7, 'incarnation': uuid.uuid1()},
    'of a name': {'resource_name': 'x', 'incarnation': uuid.uuid1()},
    'of a name and a number': {
        'resource_name': 'x',
        'default_limit': 7,
        'incarnation': uuid.uuid1(),
    },
    'of being closed': {'closed_at': 1, 'incarnation': uuid.uuid1()},
}


@pytest.mark.parametrize('name', GHOST_ROWS)
def test_what_a_change_left_of_a_deleted_one_is_none(
    ours, store, keyspace, name
):
    """So it looks where one region deletes and another changes it."""
    made = make(ours)
    ours.delete_registered_limit(made['id'])
    assigned = ', '.join(f'{column} = %s' for column in GHOST_ROWS[name])
    session = store.sessions.get().session
    session.execute(
        f'UPDATE {keyspace}.registered_limit USING TIMESTAMP %s SET {assigned}'
        ' WHERE bucket = 0 AND id = %s',
        (2**62, *GHOST_ROWS[name].values(), made['id']),
    )
    try:
        found = ours.list_registered_limits(Hints())
        assert made['id'] not in {each['id'] for each in found}
        if 'incarnation' not in GHOST_ROWS[name]:
            found = REGISTERED_LIMITS.entity.all(store)
            assert made['id'] not in {each['id'] for each in found}
        for call in (
            ours.get_registered_limit,
            ours.delete_registered_limit,
            lambda each: ours.update_registered_limit(each, {}),
        ):
            with pytest.raises(exception.RegisteredLimitNotFound):
                call(made['id'])
        with pytest.raises(exception.NoLimitReference):
            make_limit(ours, made)
        make_limit(ours, make(ours, service_id=made['service_id']))
    finally:
        session.execute(f'TRUNCATE {keyspace}.registered_limit', timeout=60)


def test_what_a_change_left_of_a_deleted_limit_is_none(ours, store, keyspace):
    made = make_limit(ours, make(ours))
    ours.delete_limit(made['id'])
    session = store.sessions.get().session
    session.execute(
        f'UPDATE {keyspace}."limit" USING TIMESTAMP %s'
        " SET description = 'x' WHERE id = %s",
        (2**62, made['id']),
    )
    found = ours.list_limits(Hints())
    assert made['id'] not in {each['id'] for each in found}
    with pytest.raises(exception.LimitNotFound):
        ours.get_limit(made['id'])


def test_a_limit_without_a_registered_one_can_be_seen_and_deleted(ours, store):
    """Two regions can leave such a one; no call fails for it."""
    registered_limit = make(ours)
    made = [make_limit(ours, registered_limit) for _ in range(2)]
    assert REGISTERED_LIMITS.remove(store, registered_limit['id'])
    assert ours.get_limit(made[0]['id']) == made[0]
    assert made[0] in ours.list_limits(Hints())
    for each in made:
        wanted = hints_for(project_id=each['project_id'])
        assert ours.list_limits(wanted) == [each]
    ours.delete_limit(made[0]['id'])
    assert ours.delete_limits_for_project(made[1]['project_id']) == [
        made[1]['id']
    ]
    for each in made:
        with pytest.raises(exception.LimitNotFound):
            ours.get_limit(each['id'])
