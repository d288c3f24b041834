# SPDX-License-Identifier: Apache-2.0
"""Catalogs under crashes, lost replies and races.

SQL's foreign keys hold at every moment; here each test ends by looking for
what must never be left: see ``check``.
"""

import contextlib
import threading
import types
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

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
from keystone_cassandra_token.tables.index import ALL_SHARDS
from tests.fault import faults
from tests.fault.generated import (
    Generated,
    World,
    found,
    ghosts,
    operation,
)


@pytest.fixture
def driver(store):
    driver = catalog.Catalog()
    driver.resource_api = types.SimpleNamespace(get_project=lambda _id: {})
    empty(driver)
    return driver


def empty(driver):
    for each in driver.list_endpoints(Hints()):
        driver.delete_endpoint(each['id'])
    for each in driver.list_services(Hints()):
        driver.delete_service(each['id'])
    while found := driver.list_regions(Hints()):
        driver.delete_region(found[0]['id'])


def fresh():
    return uuid.uuid4().hex


def region(driver, parent_id=None, **more):
    made = {'id': fresh(), 'description': '', 'parent_region_id': parent_id}
    return driver.create_region(made | more)['id']


def service(driver):
    made = {'id': fresh(), 'type': 'compute', 'enabled': True}
    return driver.create_service(made['id'], made)['id']


def endpoint(driver, service_id, region_id=None, **more):
    made = {
        'id': fresh(),
        'service_id': service_id,
        'region_id': region_id,
        'interface': 'public',
        'url': 'http://one',
    } | more
    return driver.create_endpoint(made['id'], made)['id']


def group(driver):
    made = {'id': fresh(), 'name': 'group', 'filters': {}}
    return driver.create_endpoint_group(made['id'], made)['id']


def ids(found):
    return {each['id'] for each in found}


def region_ids(driver):
    return ids(driver.list_regions(Hints()))


def endpoint_ids(driver):
    return ids(driver.list_endpoints(Hints()))


def shown(driver, project_id=None):
    """Return the ids of the endpoints in a catalog."""
    found = driver.get_v3_catalog('user', project_id)
    return {each['id'] for entry in found for each in entry['endpoints']}


def check(driver, whole=True):
    """Check that nothing refers to what is gone, and that catalogs work.

    :param whole: whether no orphan may be there; else one may, if it is in
        no catalog and can be deleted.
    """
    there = region_ids(driver)
    services = ids(driver.list_services(Hints()))
    orphans = []
    for each in driver.list_regions(Hints()):
        if each['parent_region_id'] not in there | {None}:
            orphans.append(each['id'])
        above, passed = each['parent_region_id'], set()
        while above in there and above not in passed:
            passed.add(above)
            above = driver.get_region(above)['parent_region_id']
        assert above not in passed, 'a circle of regions'
    assert not orphans  # of regions there are none, whatever happens
    for each in driver.list_endpoints(Hints()):
        if each['service_id'] not in services:
            assert each['id'] not in shown(driver)
            orphans.append(each['id'])
        elif each['region_id'] not in there | {None}:
            orphans.append(each['id'])
    assert not (orphans and whole)
    for each in orphans:
        assert driver.get_endpoint(each)['id'] == each
        driver.delete_endpoint(each)
    assert not set(orphans) & endpoint_ids(driver)


class Late:
    """A call that is held at a statement while others are made."""

    def __init__(self, store, target, call):
        self._call = call
        self.failures = []
        self._stack = contextlib.ExitStack()
        self._held = self._stack.enter_context(faults.hold(store, target))
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self._call()
        except exception.Error as error:
            self.failures.append(type(error))

    def __enter__(self):
        self._thread.start()
        assert self._held.reached.wait(faults.PATIENCE)
        return self

    def __exit__(self, *error):
        self._held.release()
        self._thread.join(faults.PATIENCE)
        assert not self._thread.is_alive()
        self._stack.__exit__(*error)


@contextlib.contextmanager
def before_each(store, target, *steps):
    """Make calls before the sendings of a statement, one before each."""
    left = list(steps)

    def action(statements, send):
        if target in statements and left:
            left.pop(0)()
        return send()

    with faults.intercepted(store, action):
        yield
    assert not left


class Catalogs(World):
    """Parts of a catalog, and what readers see of them."""

    ages = ()

    regions: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = catalog.Catalog()
        self.driver.resource_api = types.SimpleNamespace(
            get_project=lambda _id: {}
        )

    def region(self, label, parent=None, **more):
        region(
            self.driver,
            parent and self.id(parent),
            id=self.id(label),
            **more,
        )

    def service(self, label):
        made = {'id': self.id(label), 'type': 'compute', 'enabled': True}
        self.driver.create_service(made['id'], made)

    def endpoint(self, label, of_service, region_id=None, **more):
        endpoint(
            self.driver,
            self.id(of_service),
            region_id and self.id(region_id),
            id=self.id(label),
            **more,
        )

    def state(self):
        seen = {
            'regions': self.labels(region_ids(self.driver), False),
            'services': self.labels(
                ids(self.driver.list_services(Hints())), False
            ),
            'endpoints': self.labels(endpoint_ids(self.driver), False),
            'shown': self.labels(shown(self.driver), False),
        }
        for label in self.regions:
            one = found(self.driver.get_region, self.id(label))
            above = one and one['parent_region_id']
            seen[label] = one and (
                above and self.labels([above]),
                one['description'],
                one.get('note'),
            )
        for label in self.endpoints:
            one = found(self.driver.get_endpoint, self.id(label))
            seen[label] = one and (
                self.labels([one['service_id']]),
                one['region_id'] and self.labels([one['region_id']]),
                one['interface'],
                one.get('note'),
            )
        return seen

    def wrong(self):
        seen = self.state()
        wrong = [
            f'{label} is below {above[0]}, which is gone'
            for label in self.regions
            if (above := seen[label] and seen[label][0])
            and above[0] not in seen['regions']
        ]
        for label in self.regions:
            above, passed = label, []
            while above and above not in passed and seen.get(above):
                passed.append(above)
                above = (seen[above][0] or [None])[0]
            if above in passed:
                wrong.append(f'{label} is in a circle')
        return wrong + [
            f'{label} is shown without its service'
            for label in self.endpoints
            if label in seen['shown']
            and seen[label][0][0] not in seen['services']
        ]

    def left(self):
        seen = self.state()
        return [
            f'{label} is of what is gone'
            for label in self.endpoints
            if seen[label]
            and (
                seen[label][0][0] not in seen['services']
                or (seen[label][1] or seen['regions'] or [''])[0]
                not in [*seen['regions'], '']
            )
        ] + ghosts(self, REGIONS, self.regions)


class Regions(Catalogs):
    """A region below another one, a third one, and one below that."""

    regions = ('root', 'child', 'other', 'lower', 'new')

    def __init__(self, store):
        super().__init__(store)
        self.region('root')
        self.region('child', 'root')
        self.region('other')
        self.region('lower', 'other')

    def move(self, label, parent):
        self.driver.update_region(
            self.id(label), {'parent_region_id': self.id(parent)}
        )

    @operation(exception.Conflict)
    def create_below_child(self):
        self.region('new', 'child')

    @operation(exception.Conflict)
    def create_same_below_root(self):
        self.region('new', 'root', note='another')

    @operation(exception.Conflict)
    def create_same_above(self):
        self.region('new', note='above')

    @operation()
    def move_other_below_child(self):
        self.move('other', 'child')

    @operation()
    def move_root_below_lower(self):
        self.move('root', 'lower')

    @operation()
    def move_and_describe_child(self):
        self.driver.update_region(
            self.id('child'),
            {'parent_region_id': self.id('other'), 'description': 'new'},
        )

    @operation()
    def describe_child(self):
        self.driver.update_region(self.id('child'), {'description': 'here'})

    @operation(exception.RegionNotFound)
    def delete_root(self):
        self.driver.delete_region(self.id('root'))

    @operation(exception.RegionNotFound)
    def delete_other(self):
        self.driver.delete_region(self.id('other'))


class TestRegions(Generated):
    world = Regions


class Endpoints(Catalogs):
    """An endpoint in a region and of a service; others to move to."""

    regions = ('root', 'before', 'after')
    services = ('old', 'new')
    endpoints = ('first', 'second')

    def __init__(self, store):
        super().__init__(store)
        self.region('root')
        self.region('before', 'root')
        self.region('after')
        for label in self.services:
            self.service(label)
        self.endpoint('first', 'old')

    def move(self, **to):
        names = {f'{name}_id': self.id(label) for name, label in to.items()}
        self.driver.update_endpoint(self.id('first'), names)

    @operation(exception.Conflict)
    def create(self):
        self.endpoint('second', 'old', 'before')

    @operation(exception.Conflict)
    def create_same(self):
        self.endpoint('second', 'new', 'after', note='another')

    @operation()
    def move_to_region(self):
        self.move(region='after')

    @operation()
    def move_to_service(self):
        self.move(service='new')

    @operation()
    def move_to_both(self):
        self.move(service='new', region='before')

    @operation(exception.EndpointNotFound)
    def delete(self):
        self.driver.delete_endpoint(self.id('first'))

    @operation(exception.RegionNotFound)
    def delete_root(self):
        self.driver.delete_region(self.id('root'))

    @operation(exception.RegionNotFound)
    def delete_after(self):
        self.driver.delete_region(self.id('after'))

    @operation(
        exception.ServiceNotFound, partly=['first', 'endpoints', 'services']
    )
    def delete_old(self):
        self.driver.delete_service(self.id('old'))

    @operation(exception.ServiceNotFound)
    def delete_new(self):
        self.driver.delete_service(self.id('new'))


class TestEndpoints(Generated):
    world = Endpoints


class Given(Catalogs):
    """Endpoints and groups, of which a project has one each."""

    services = ('service',)
    endpoints = ('first', 'second')
    groups = ('one', 'two')

    def __init__(self, store):
        super().__init__(store)
        self.service('service')
        for label in self.endpoints:
            self.endpoint(label, 'service')
        for label in self.groups:
            made = {'id': self.id(label), 'name': label, 'filters': {}}
            self.driver.create_endpoint_group(made['id'], made)
        self.give('first')
        self.give_group('one')

    def give(self, label):
        self.driver.add_endpoint_to_project(self.id(label), self.id('project'))

    def give_group(self, label):
        self.driver.add_endpoint_group_to_project(
            self.id(label), self.id('project')
        )

    @operation(exception.Conflict)
    def give_first(self):
        self.give('first')

    @operation(exception.Conflict)
    def give_second(self):
        self.give('second')

    @operation(exception.NotFound)
    def take_first(self):
        self.driver.remove_endpoint_from_project(
            self.id('first'), self.id('project')
        )

    @operation(exception.EndpointNotFound, partly=None)
    def delete_first(self):
        self.driver.delete_endpoint(self.id('first'))

    @operation(exception.Conflict)
    def give_group_one(self):
        self.give_group('one')

    @operation(exception.Conflict)
    def give_group_two(self):
        self.give_group('two')

    @operation(exception.NotFound)
    def take_group_one(self):
        self.driver.remove_endpoint_group_from_project(
            self.id('one'), self.id('project')
        )

    @operation(exception.EndpointGroupNotFound, partly=None)
    def delete_group_one(self):
        self.driver.delete_endpoint_group(self.id('one'))

    @operation(exception.EndpointGroupNotFound, partly=None)
    def delete_group_two(self):
        self.driver.delete_endpoint_group(self.id('two'))

    @operation(partly=None)
    def delete_project(self):
        self.driver.delete_association_by_project(self.id('project'))

    def state(self):
        project = self.id('project')
        seen = super().state()
        seen['in the project'] = self.labels(
            shown(self.driver, project), False
        )
        listed = self.driver.list_endpoints_for_project(project)
        seen['given'] = self.labels(each['endpoint_id'] for each in listed)
        groups = self.driver.list_endpoint_groups_for_project(project)
        seen['groups'] = self.labels(
            each['endpoint_group_id'] for each in groups
        )
        for label in self.endpoints:
            given = self.driver.list_projects_for_endpoint(self.id(label))
            seen[f'given {label}'] = len(given)
        for label in self.groups:
            given = self.driver.list_projects_associated_with_endpoint_group(
                self.id(label)
            )
            seen[f'given {label}'] = len(given)
            seen[f'group {label}'] = bool(
                found(self.driver.get_endpoint_group, self.id(label))
            )
        return seen

    def wrong(self):
        seen = self.state()
        return [
            # Else Keystone shows none of the project's groups.
            f'{label} is given, and gone'
            for label in self.groups
            if label in seen['groups'] and not seen[f'group {label}']
        ]

    def left(self):
        return [
            f'rows of {label}, which is given to nobody'
            for association, labels, given in (
                (ENDPOINTS_OF, self.endpoints, 'given'),
                (GROUPS_OF, self.groups, 'groups'),
            )
            for label in labels
            if rows(
                self.store,
                association,
                self.id(label),
                [self.id('project')],
            )
            != (2 if label in self.state()[given] else 0)
        ]


class TestGiven(Generated):
    world = Given


def rows(store, association, given_id, projects):
    """Return how many rows of associations there are, of either table."""
    column = next(iter(association.listed_row.columns))
    listed = store.rows(
        association.list_holders,
        association.listed_row,
        shards=ALL_SHARDS,
        **{column: given_id},
    )
    found = [
        association.find(store, project_id=each, **{column: given_id})
        for each in projects
    ]
    return len(listed) + sum(each is not None for each in found)


class TestLostReplies:
    """A serial read tells what became of a change."""

    def test_give_and_take(self, driver, store):
        pair = endpoint(driver, service(driver)), fresh()
        with faults.lose_reply(store, ENDPOINTS_OF.insert):
            driver.add_endpoint_to_project(*pair)
        driver.check_endpoint_in_project(*pair)
        with (
            faults.lose_reply(store, ENDPOINTS_OF.insert),
            pytest.raises(exception.Conflict),
        ):
            driver.add_endpoint_to_project(*pair)
        assert rows(store, ENDPOINTS_OF, pair[0], pair[1:]) == 2
        with faults.lose_reply(store, ENDPOINTS_OF.delete):
            driver.remove_endpoint_from_project(*pair)
        assert rows(store, ENDPOINTS_OF, pair[0], pair[1:]) == 0


class TestRegionRaces:
    def test_a_circle_from_elsewhere_can_be_undone(self, driver, store):
        """Two datacenters can make one; here it is made by hand."""
        one, two, third = (region(driver) for _ in range(3))
        for each, parent in ((one, two), (two, one)):
            assert REGIONS.change(store, each, {'parent_region_id': parent})
        with pytest.raises(exception.CircularRegionHierarchyError):
            driver.update_region(third, {'parent_region_id': one})
        driver.update_region(one, {'parent_region_id': None})
        driver.update_region(third, {'parent_region_id': one})
        check(driver)
        assert region_ids(driver) == {one, two, third}


class TestEndpointRaces:
    def test_what_it_came_from_is_deleted_too(self, driver, store):
        before, after = region(driver), region(driver)
        made = endpoint(driver, service(driver), before)
        with (
            before_each(
                store,
                ENDPOINTS.update,
                lambda: driver.delete_region(after),
                lambda: driver.delete_region(before),
            ),
            pytest.raises(exception.ValidationError),
        ):
            driver.update_endpoint(made, {'region_id': after})
        assert driver.get_endpoint(made)['region_id'] is None
        check(driver)

    def test_it_goes_with_the_service_that_it_came_from(self, driver, store):
        before, after = service(driver), service(driver)
        made, project = endpoint(driver, before), fresh()
        driver.add_endpoint_to_project(made, project)
        with (
            before_each(
                store,
                ENDPOINTS.update,
                lambda: driver.delete_service(after),
                lambda: driver.delete_service(before),
            ),
            pytest.raises(exception.EndpointNotFound),
        ):
            driver.update_endpoint(made, {'service_id': after})
        assert made not in endpoint_ids(driver)
        assert driver.list_endpoints_for_project(project) == []
        check(driver)

    def test_it_goes_with_the_service_that_it_came_to(self, driver, store):
        """It was moved in time: who deletes the service has seen it there."""
        before, after = service(driver), service(driver)
        made = endpoint(driver, before)
        with faults.stalled(
            store,
            SERVICES.settle,
            lambda: driver.update_endpoint(made, {'service_id': after}),
        ) as late:
            driver.delete_service(after)
        assert late.said['service_id'] == after
        assert made not in endpoint_ids(driver)
        check(driver)

    def test_who_deletes_looks_where_all_datacenters_agree(
        self, driver, store
    ):
        """A read in one of them may be too early for another's endpoint."""
        root, made = region(driver), service(driver)
        endpoint(driver, made, root)
        with (
            faults.counted(store) as sent,
            pytest.raises(exception.RegionDeletionError),
        ):
            driver.delete_region(root)
        assert sent == [(REGIONS.get_all,), (ENDPOINTS.settle_all,)]
        with faults.counted(store) as sent:
            driver.delete_service(made)
        # Once is enough: who comes later finds the service gone.
        assert [each for each in sent if each[0].verb != 'DELETE'] == [
            (SERVICES.get,),
            (ENDPOINTS.settle_all,),
            (ENDPOINTS_OF.list_holders,),
        ]
        driver.delete_region(root)
        check(driver)

    def test_a_region_that_it_has_again_is_looked_at(self, driver, store):
        """It leaves its region, which is deleted, before a change says that
        it stays there."""
        before, other = region(driver), region(driver)
        made = endpoint(driver, service(driver), before)
        with Late(
            store,
            ENDPOINTS.update,
            lambda: driver.update_endpoint(
                made, {'region_id': before, 'interface': 'admin'}
            ),
        ) as late:
            ENDPOINTS.change(store, made, {'region_id': other})
            driver.delete_region(before)
        assert late.failures == [exception.ValidationError]
        assert driver.get_endpoint(made)['region_id'] == other
        check(driver)


class TestAssociationRaces:
    def test_nobody_is_given_a_group_that_is_being_deleted(
        self, driver, store
    ):
        lost, project = group(driver), fresh()
        driver.add_endpoint_group_to_project(lost, project)
        with faults.stalled(
            store, GROUPS_OF.delete, lambda: driver.delete_endpoint_group(lost)
        ) as deletion:
            for each in (project, fresh()):
                with pytest.raises(exception.EndpointGroupNotFound):
                    driver.add_endpoint_group_to_project(lost, each)
            assert driver.list_endpoint_groups_for_project(project) == []
        assert deletion.said is None
        assert rows(store, GROUPS_OF, lost, [project]) == 0

    @pytest.mark.parametrize('seconds', [-5, 5])
    def test_no_clock_decides(self, driver, store, seconds):
        pair = endpoint(driver, service(driver)), fresh()
        with faults.clock_off_by(store, seconds):
            driver.add_endpoint_to_project(*pair)
        driver.remove_endpoint_from_project(*pair)
        assert driver.list_endpoints_for_project(pair[1]) == []
        assert driver.list_projects_for_endpoint(pair[0]) == []
        driver.add_endpoint_to_project(*pair)
        assert len(driver.list_projects_for_endpoint(pair[0])) == 1


class TestOrphans:
    """What a crash, or another datacenter, can leave harms no catalog."""

    def test_an_endpoint_without_its_service(self, driver, store):
        gone, stays, project = service(driver), service(driver), fresh()
        orphan, other = endpoint(driver, gone), endpoint(driver, stays)
        driver.add_endpoint_to_project(orphan, project)
        assert shown(driver, project) == {orphan}
        assert SERVICES.remove(store, gone)
        assert shown(driver) == {other}
        # As if it had been deleted: then the project has no filter.
        assert shown(driver, project) == {other}
        assert orphan in endpoint_ids(driver)
        check(driver, whole=False)
        assert endpoint_ids(driver) == {other}

    def test_associations_of_what_is_gone(self, driver, store):
        of_service, project = service(driver), fresh()
        made, other = (endpoint(driver, of_service) for _ in range(2))
        lost, kept = group(driver), group(driver)
        driver.update_endpoint_group(kept, {'filters': {'interface': 'x'}})
        driver.add_endpoint_to_project(made, project)
        for each in (lost, kept):
            driver.add_endpoint_group_to_project(each, project)
        assert shown(driver, project) == {made, other}
        assert GROUPS.remove(store, lost)
        assert shown(driver, project) == {made}
        assert ENDPOINTS.remove(store, made)
        assert shown(driver, project) == {other}
        # A group that is gone has been given to nobody.
        (listed,) = driver.list_endpoint_groups_for_project(project)
        assert listed['endpoint_group_id'] == kept
        assert driver.list_projects_associated_with_endpoint_group(lost) == []
        with pytest.raises(exception.NotFound):
            driver.get_endpoint_group_in_project(lost, project)
        # They can be removed.
        driver.remove_endpoint_from_project(made, project)
        driver.remove_endpoint_group_from_project(lost, project)
        assert driver.list_endpoints_for_project(project) == []

    def test_a_row_that_was_changed_as_it_was_deleted(
        self, driver, store, keyspace
    ):
        """In another datacenter, later; here it is made by hand."""
        session = store.sessions.get().session
        left = fresh()
        for table, column in (
            ('region', 'description'),
            ('service', 'type'),
            ('endpoint', 'url'),
            ('endpoint_group', 'name'),
        ):
            session.execute(
                f"UPDATE {keyspace}.{table} SET {column} = 'ghost'"
                f" WHERE bucket = 0 AND id = '{left}'"
            )
        assert left not in region_ids(driver)
        assert left not in endpoint_ids(driver)
        assert left not in ids(driver.list_services(Hints()))
        assert left not in ids(driver.list_endpoint_groups(Hints()))
        assert driver.get_v3_catalog('user', fresh()) == []
        # Its id is free.
        made = {'id': left, 'type': 'compute', 'enabled': True}
        assert driver.create_service(left, made) == made
        assert region(driver, id=left, description='new') == left
        assert driver.get_region(left)['description'] == 'new'
        assert endpoint(driver, left, left, id=left) == left
        assert shown(driver) == {left}
        driver.delete_endpoint(left)
