# SPDX-License-Identifier: Apache-2.0
"""Catalogs: what the driver promises, and equal answers as with SQL."""

import types
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.catalog import core
from keystone.catalog.backends import sql as sql_catalog
from keystone.common import provider_api
from keystone.common.driver_hints import Hints
from oslo_db import exception as db_exception

from keystone_cassandra_token.drivers.catalog import driver as catalog
from keystone_cassandra_token.drivers.catalog.endpoints import (
    ENDPOINTS,
    GROUPS,
    SERVICES,
)
from keystone_cassandra_token.drivers.catalog.project_endpoints import (
    ENDPOINTS_OF,
    GROUPS_OF,
)
from keystone_cassandra_token.drivers.catalog.regions import REGIONS
from tests.contract import sql_oracle
from tests.contract.calls import call, hints, listed, record
from tests.fault import faults

MODELS = (
    sql_catalog.ProjectEndpoint,
    sql_catalog.ProjectEndpointGroupMembership,
    sql_catalog.EndpointGroup,
    sql_catalog.Endpoint,
    sql_catalog.Service,
    sql_catalog.Region,
)
#: Each entity and association has some of these, as strings.
IDS = ('id', 'project_id', 'endpoint_id', 'endpoint_group_id')
REGION_IDS = [f'region-{number}' for number in range(4)]
SERVICE_IDS = ['service-1', 'service-2', 'service-3']
ENDPOINT_IDS = [f'endpoint-{number}' for number in range(5)]
GROUP_IDS = ['group-1', 'group-2']
PROJECTS = ['project-1', 'project-2']
STRANGER = 'project-3'  # that is none
URLS = [
    'http://one/$(project_id)s',
    'http://two/%(tenant_id)s/$(user_id)s',
    'http://three',
    'http://$(nothing)s',
    'http://%',
    '',
]

#: Where SQL's driver leaves the answer to its database.
REFUSED = {
    db_exception.DBDuplicateEntry: exception.Conflict,
    db_exception.DBReferenceError: exception.ValidationError,
    exception.UnexpectedError: exception.EndpointGroupNotFound,
}

# The first more often than the others, so that more happens to it.
region_id = st.sampled_from([*REGION_IDS, *REGION_IDS[:2]])
service_id = st.sampled_from([*SERVICE_IDS, *SERVICE_IDS[:1]])
endpoint_id = st.sampled_from([*ENDPOINT_IDS, *ENDPOINT_IDS[:1]])
group_id = st.sampled_from(GROUP_IDS)
project_id = st.sampled_from([*PROJECTS, *PROJECTS[:1] * 2])
notes = {
    'note': st.sampled_from(['x', None, {'a': [1]}]),
    'extra': st.just('dropped'),
}
region = {
    'description': st.sampled_from(['', 'Here', 'there']),
    'parent_region_id': st.none() | region_id,
    **notes,
}
service = {
    'type': st.sampled_from(['compute', 'image', None]),
    'enabled': st.sampled_from([True, True, False]),
    'name': st.sampled_from(['nova', 'Nova', '']),
    **notes,
}
endpoint = {
    'interface': st.sampled_from(['public', 'internal']),
    'region_id': st.none() | region_id,
    'service_id': service_id,
    'url': st.sampled_from(URLS),
    'enabled': st.sampled_from([True, True, False, None]),
    'legacy_endpoint_id': st.sampled_from([None, 'old', 5]),
    **notes,
}
group = {
    'name': st.sampled_from(['one', 'two']),
    'description': st.sampled_from([None, 'Text']),
    'filters': st.sampled_from(
        [
            {'interface': 'public'},
            {'service_id': SERVICE_IDS[0], 'interface': 'internal'},
            {'region_id': REGION_IDS[0]},
            {'enabled': True},
            {},
        ]
    ),
}


new_region = record(region, 'description')
new_service = record(service, 'type', 'enabled', 'name')
new_endpoint = record(endpoint, 'interface', 'service_id', 'url')
new_group = record(group, *group)
calls = st.one_of(
    *[call('create_region', region_id, new_region)] * 3,
    *[call('update_region', region_id, record(region))] * 2,
    call('get_region', region_id),
    call('delete_region', region_id),
    call(
        'list_regions',
        hints(
            ('parent_region_id', REGION_IDS[0], 'equals'),
            ('parent_region_id', None, 'equals'),
            ('description', 'HE', 'contains'),
            ('note', 'x', 'equals'),
        ),
    ),
    *[call('create_service', service_id, new_service)] * 3,
    call('update_service', service_id, record(service)),
    call('get_service', service_id),
    call('delete_service', service_id),
    call(
        'list_services',
        hints(
            ('type', 'compute', 'equals'),
            ('enabled', 'true', 'equals'),
            ('enabled', False, 'equals'),
            ('name', 'nova', 'equals'),
        ),
    ),
    *[call('create_endpoint', endpoint_id, new_endpoint)] * 5,
    *[call('update_endpoint', endpoint_id, record(endpoint))] * 2,
    call('get_endpoint', endpoint_id),
    call('delete_endpoint', endpoint_id),
    call(
        'list_endpoints',
        hints(
            ('interface', 'public', 'equals'),
            ('service_id', SERVICE_IDS[0], 'equals'),
            ('region_id', REGION_IDS[0], 'equals'),
            ('url', 'HTTP', 'startswith'),
            ('interface', 'l' * 9, 'endswith'),
        ),
    ),
    *[call('get_v3_catalog', st.none() | project_id, st.booleans())] * 4,
    call('get_v3_catalog', st.just(STRANGER), st.booleans()),
    *[call('add_endpoint_to_project', endpoint_id, project_id)] * 3,
    call('remove_endpoint_from_project', endpoint_id, project_id),
    call('check_endpoint_in_project', endpoint_id, project_id),
    call('list_endpoints_for_project', project_id),
    call('list_projects_for_endpoint', endpoint_id),
    call('delete_association_by_endpoint', endpoint_id),
    call('delete_association_by_project', project_id),
    *[call('create_endpoint_group', group_id, new_group)] * 2,
    call('get_endpoint_group', group_id),
    call('update_endpoint_group', group_id, record(group)),
    call('delete_endpoint_group', group_id),
    call(
        'list_endpoint_groups',
        hints(('name', 'one', 'equals'), ('description', 'T', 'contains')),
    ),
    *[call('add_endpoint_group_to_project', group_id, project_id)] * 2,
    call('get_endpoint_group_in_project', group_id, project_id),
    call('remove_endpoint_group_from_project', group_id, project_id),
    call('list_endpoint_groups_for_project', project_id),
    call('list_projects_associated_with_endpoint_group', group_id),
    call('delete_endpoint_group_association_by_project', project_id),
)


#: So that there is something to change, to refer to and to show.
BEGINNING = [
    ('create_region', REGION_IDS[0], {'description': ''}),
    (
        'create_region',
        REGION_IDS[1],
        {'description': '', 'parent_region_id': REGION_IDS[0]},
    ),
    *(
        ('create_service', each, {'type': each, 'enabled': True, 'name': ''})
        for each in SERVICE_IDS[:2]
    ),
    *(
        (
            'create_endpoint',
            each,
            {
                'interface': 'public',
                'region_id': REGION_IDS[number],
                'service_id': SERVICE_IDS[number],
                'url': URLS[number],
            },
        )
        for number, each in enumerate(ENDPOINT_IDS[:2])
    ),
    (
        'create_endpoint_group',
        GROUP_IDS[0],
        {'name': 'one', 'filters': {'interface': 'public'}},
    ),
    ('get_v3_catalog', PROJECTS[0], True),
]


class Sql(sql_catalog.Catalog):
    """Keystone's driver; with an endpoint go what projects have of it.

    Keystone sees to that for one that is deleted by itself, and when it next
    meets what is left of one that went with its service.
    """

    def delete_endpoint(self, endpoint_id):
        super().delete_endpoint(endpoint_id)
        self.delete_association_by_endpoint(endpoint_id)

    def delete_service(self, service_id):
        gone = [
            each['id']
            for each in self.list_endpoints(Hints())
            if each['service_id'] == service_id
        ]
        super().delete_service(service_id)
        for each in gone:
            self.delete_association_by_endpoint(each)


class Manager(core.Manager):
    """Keystone's manager over a driver, without its caches."""

    def __init__(self, driver):
        self.driver = driver

    def get_endpoint(self, endpoint_id):
        return self.driver.get_endpoint(endpoint_id)


@pytest.fixture
def projects():
    """A resource API that knows all projects but one."""

    def get_project(project_id):
        if project_id == STRANGER:
            raise exception.ProjectNotFound(project_id=project_id)
        return {'id': project_id}

    registry = provider_api.ProviderAPIs
    registry._clear_registry_instances()
    registry._register_provider_api(
        'resource_api', types.SimpleNamespace(get_project=get_project)
    )
    yield
    registry._clear_registry_instances()


@pytest.fixture
def ours(store, projects):
    return catalog.Catalog()


@pytest.fixture
def theirs(keyspace, projects):
    with sql_oracle.sqlite(*MODELS):
        driver = Sql()
        driver.catalog_api = Manager(driver)
        yield driver


def play(driver, conf, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    method = getattr(driver, name)
    try:
        if name == 'get_v3_catalog':
            return catalog_of(driver, conf, *rest)
        if name == 'create_region':
            return method(rest[1] | {'id': rest[0]})
        if name.startswith('create'):
            return method(rest[0], rest[1] | {'id': rest[0]})
        if name == 'add_endpoint_to_project':
            driver.get_endpoint(rest[0])  # as Keystone does before
        if name.startswith('list') and isinstance(rest[0], tuple):
            return listed(method, *rest[0], in_order)
        said = method(*rest)
        return in_order(said) if isinstance(said, list) else said
    except (exception.Error, db_exception.DBError) as error:
        return REFUSED.get(type(error), type(error))


def in_order(found):
    assert type(found) is list
    return sorted(found, key=lambda each: [each.get(name) for name in IDS])


def catalog_of(driver, conf, project_id, everything=True):
    conf.set_override(
        'return_all_endpoints_if_no_filter', everything, 'endpoint_filter'
    )
    return in_order(
        [
            each | {'endpoints': in_order(each['endpoints'])}
            for each in driver.get_v3_catalog('user', project_id)
        ]
    )


@pytest.fixture
def filter_option(conf):
    yield
    conf.clear_override('return_all_endpoints_if_no_filter', 'endpoint_filter')


def test_sequences_give_equal_answers(ours, theirs, conf, filter_option):
    seen = set()
    shown = []

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=10, max_size=40))
    def compare(sequence):
        empty(ours)
        sql_oracle.empty(*MODELS)
        for each in BEGINNING + sequence:
            expected, answer = (
                play(driver, conf, each) for driver in (theirs, ours)
            )
            assert answer == expected, each
            seen.add((each[0], isinstance(expected, type) and expected))
            if each[0] == 'get_v3_catalog' and isinstance(expected, list):
                shown.append(expected)

    compare()
    assert any(entry['endpoints'] for found in shown for entry in found)
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 25
    assert len({said for _, said in seen if said}) > 5


def empty(driver):
    """Delete all that is there: sooner done than to truncate eight tables."""
    for each in driver.list_services(Hints()):
        driver.delete_service(each['id'])
    for each in driver.list_endpoint_groups(Hints()):
        driver.delete_endpoint_group(each['id'])
    while found := driver.list_regions(Hints()):
        driver.delete_region(found[0]['id'])
    for project_id in PROJECTS:
        driver.delete_association_by_project(project_id)
    assert driver.list_endpoints(Hints()) == []


def make(driver, kind, **values):
    """Create a region, service, endpoint or endpoint group; return it."""
    made = {'id': uuid.uuid4().hex} | values
    if kind == 'region':
        return driver.create_region({'description': ''} | made)
    rest = {
        'service': {'type': 'compute', 'name': 'nova'},
        'endpoint': {'interface': 'public', 'url': 'http://one'},
        'endpoint_group': {'name': 'group', 'filters': {}},
    }[kind]
    return getattr(driver, f'create_{kind}')(made['id'], rest | made)


class TestCost:
    """What a catalog costs does not depend on what is in it."""

    @pytest.fixture
    def large(self, ours, store):
        """60 services with 400 endpoints; one project has some."""
        empty(ours)
        services = [make(ours, 'service')['id'] for _ in range(60)]
        for number in range(400):
            service_id = services[number % len(services)]
            # All but the references, which the other tests are about.
            new = ENDPOINTS.new(
                {
                    'id': f'{number:03}',
                    'interface': 'public' if number % 2 else 'internal',
                    'service_id': service_id,
                    'url': f'http://{number}/$(project_id)s',
                    'enabled': True,
                    'extra': {},
                }
            )
            assert ENDPOINTS.create(store, new)
        for number in range(0, 40, 2):
            ours.add_endpoint_to_project(f'{number:03}', PROJECTS[0])
        group = make(ours, 'endpoint_group', filters={'interface': 'public'})
        ours.add_endpoint_group_to_project(group['id'], PROJECTS[0])
        yield 200 + 20
        empty(ours)

    def test_a_catalog_is_one_round_trip(self, ours, store, large):
        sent, waited_after = [], []

        class Future:
            def __init__(self, future):
                self._future = future

            def result(self):
                waited_after.append(len(sent))
                found = self._future.result()
                assert not found.has_more_pages
                return found

        def action(statements, send):
            sent.extend(statements)
            return Future(send())

        with faults.intercepted(store, action):
            found = ours.get_v3_catalog('user', PROJECTS[0])
        assert sum(len(entry['endpoints']) for entry in found) == large
        assert set(sent) == {
            SERVICES.get_all,
            ENDPOINTS.get_all,
            GROUPS.get_all,
            ENDPOINTS_OF.list,
            GROUPS_OF.list,
        }
        # All were under way before the first was waited for.
        assert waited_after == [5] * 5

    def test_without_a_project_it_is_two_reads(self, ours, store, large):
        with faults.counted(store) as sent:
            found = ours.get_v3_catalog('user', None)
        # Their URLs want a project.
        assert len(found) == 60
        assert not any(entry['endpoints'] for entry in found)
        assert sent == [(SERVICES.get_all,), (ENDPOINTS.get_all,)]

    @pytest.mark.parametrize(
        ('kind', 'entity'),
        [
            ('region', REGIONS),
            ('service', SERVICES),
            ('endpoint', ENDPOINTS),
            ('endpoint_group', GROUPS),
        ],
    )
    def test_to_get_one_or_all_is_one_read(self, ours, store, kind, entity):
        more = {}
        if kind == 'endpoint':
            more['service_id'] = make(ours, 'service')['id']
        made = make(ours, kind, **more)
        with faults.counted(store) as sent:
            assert getattr(ours, f'get_{kind}')(made['id']) == made
            assert made in getattr(ours, f'list_{kind}s')(Hints())
        assert sent == [(entity.get,), (entity.get_all,)]


@pytest.mark.parametrize(
    ('kind', 'name', 'longest'),
    [
        ('region', 'id', 255),
        ('region', 'description', 255),
        ('service', 'id', 64),
        ('service', 'type', 255),
        ('endpoint', 'id', 64),
        ('endpoint', 'interface', 8),
        ('endpoint', 'legacy_endpoint_id', 64),
        ('endpoint', 'region_id', 255),
        ('endpoint', 'service_id', 64),
        ('endpoint_group', 'id', 64),
        ('endpoint_group', 'name', 255),
    ],
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, kind, name, longest):
    with pytest.raises(exception.StringLengthExceeded):
        make(ours, kind, **{name: 'x' * (longest + 1)})


@pytest.mark.parametrize('what', ['endpoint', 'endpoint_group'])
def test_an_association_has_ids_of_a_length(ours, what):
    add = getattr(ours, f'add_{what}_to_project')
    for ids in (('x' * 65, 'project'), ('x', 'p' * 65)):
        with pytest.raises(exception.StringLengthExceeded):
            add(*ids)


def test_a_deep_tree_of_regions_is_deleted_as_a_whole(ours, store):
    empty(ours)
    root = make(ours, 'region')['id']
    other = make(ours, 'region')['id']
    for _ in range(3):
        above = root
        for _ in range(20):
            above = make(ours, 'region', parent_region_id=above)['id']
    with faults.counted(store) as sent:
        ours.delete_region(root)
    assert [each['id'] for each in ours.list_regions(Hints())] == [other]
    # 61 regions: more than one conditional batch is made for.
    assert [len(each) for each in sent if REGIONS.delete in each] == [50, 11]


def test_names_of_groups_are_compared_as_the_keyspace_was_made(ours):
    made = make(ours, 'endpoint_group', name='Größe-' + uuid.uuid4().hex)
    asked = Hints()
    asked.add_filter('name', made['name'].upper())
    assert ours.list_endpoint_groups(asked) == [made]


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('region', 'description'),
        ('service', 'enabled'),
        ('endpoint', 'interface'),
        ('endpoint', 'service_id'),
        ('endpoint', 'url'),
        ('endpoint_group', 'name'),
    ],
)
def test_what_sql_needs_is_needed(ours, theirs, kind, name):
    refused = (exception.UnexpectedError, db_exception.DBError)
    for driver in (ours, theirs):
        more = {}
        if kind == 'endpoint':
            more['service_id'] = make(driver, 'service')['id']
        made = make(driver, kind, **more)['id']
        before = getattr(driver, f'get_{kind}')(made)
        with pytest.raises(refused):
            getattr(driver, f'update_{kind}')(made, {name: None})
        assert getattr(driver, f'get_{kind}')(made) == before
        if name != 'enabled':
            with pytest.raises(refused):
                make(driver, kind, **more | {name: None})


def test_a_legacy_id_becomes_text(ours, theirs):
    """Keystone's JSON schema says nothing of it."""
    for driver in (ours, theirs):
        of_service = make(driver, 'service')['id']
        made = make(
            driver, 'endpoint', service_id=of_service, legacy_endpoint_id=5
        )
        assert made['legacy_endpoint_id'] == 5
        got = driver.get_endpoint(made['id'])
        assert got['legacy_endpoint_id'] == '5'
        driver.update_endpoint(made['id'], {'legacy_endpoint_id': 6})
        got = driver.get_endpoint(made['id'])
        assert got['legacy_endpoint_id'] == '6'


def test_a_service_is_enabled_unless_it_is_said(ours, theirs):
    for driver in (ours, theirs):
        made = make(driver, 'service', enabled=None)['id']
        assert driver.get_service(made)['enabled'] is True
