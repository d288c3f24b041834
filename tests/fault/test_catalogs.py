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

from keystone_cassandra_token.db import errors
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


class TestCrashes:
    def test_create_region(self, driver, store):
        parent = region(driver)
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: {
                'id': fresh(),
                'description': '',
                'parent_region_id': parent,
            },
            driver.create_region,
        ):
            outcomes.append(made['id'] in region_ids(driver))
            check(driver)
            if not outcomes[-1]:
                assert driver.create_region(made) == made
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_update_region(self, driver, store):
        below = region(driver)
        parent = region(driver, region(driver))
        outcomes = []
        for _, made in faults.each_crash(
            store,
            lambda: region(driver, below),
            lambda made: driver.update_region(
                made, {'parent_region_id': parent, 'description': 'new'}
            ),
        ):
            found = driver.get_region(made)
            outcomes.append(found['parent_region_id'] == parent)
            assert found['description'] == ('new' if outcomes[-1] else '')
            check(driver)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete_region(self, driver, store):
        def prepare():
            root = region(driver)
            return [root, region(driver, root), region(driver, root)]

        outcomes = []
        for _, made in faults.each_crash(
            store, prepare, lambda made: driver.delete_region(made[0])
        ):
            left = set(made) & region_ids(driver)
            assert len(left) in (0, 3)  # all or none
            outcomes.append(not left)
            check(driver)
            if left:
                driver.delete_region(made[0])
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_create_endpoint(self, driver, store):
        outcomes = []
        refers = service(driver), region(driver)
        for _, made in faults.each_crash(
            store, fresh, lambda made: endpoint(driver, *refers, id=made)
        ):
            outcomes.append(made in endpoint_ids(driver))
            assert (made in shown(driver)) is outcomes[-1]
            check(driver)
            if not outcomes[-1]:
                endpoint(driver, *refers, id=made)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_update_endpoint(self, driver, store):
        outcomes = []
        before, after = (
            {'service_id': service(driver), 'region_id': region(driver)}
            for _ in range(2)
        )
        for _, made in faults.each_crash(
            store,
            lambda: endpoint(driver, **before),
            lambda made: driver.update_endpoint(made, after),
        ):
            found = driver.get_endpoint(made)
            now = {name: found[name] for name in before}
            assert now in (before, after)
            outcomes.append(now == after)
            check(driver)
            driver.update_endpoint(made, after)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_delete_service(self, driver, store):
        project = fresh()

        def prepare():
            made = service(driver)
            some = [endpoint(driver, made) for _ in range(2)]
            for each in some:
                driver.add_endpoint_to_project(each, project)
            return made, set(some)

        outcomes = []
        for _, (made, some) in faults.each_crash(
            store, prepare, lambda made: driver.delete_service(made[0])
        ):
            there = made in ids(driver.list_services(Hints()))
            outcomes.append(there)
            assert some & shown(driver) == (some if there else set())
            assert some & shown(driver, project) == (some if there else set())
            # The same call again deletes what is left of it.
            with contextlib.suppress(exception.ServiceNotFound):
                driver.delete_service(made)
            check(driver)
            assert not some & endpoint_ids(driver)
            driver.delete_association_by_project(project)
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    @pytest.mark.parametrize('what', ['endpoint', 'endpoint_group'])
    def test_delete_what_projects_have(self, driver, store, what):
        get, delete, add = (
            getattr(driver, name.format(what))
            for name in ('get_{}', 'delete_{}', 'add_{}_to_project')
        )
        of_service = service(driver)
        association = ENDPOINTS_OF if what == 'endpoint' else GROUPS_OF

        def prepare():
            if what == 'endpoint':
                made = endpoint(driver, of_service)
            else:
                made = group(driver)
            projects = [fresh(), fresh()]
            for each in projects:
                add(made, each)
            return made, projects

        outcomes = []
        for _, (made, projects) in faults.each_crash(
            store, prepare, lambda made: delete(made[0])
        ):
            try:
                get(made)
                outcomes.append(True)
            except exception.NotFound:
                outcomes.append(False)
            for each in projects:
                shown(driver, each)
                if what == 'endpoint_group':
                    # Else Keystone shows none of the project's groups.
                    for listed in driver.list_endpoint_groups_for_project(
                        each
                    ):
                        get(listed['endpoint_group_id'])
            # The same call again deletes what is left of it.
            with contextlib.suppress(exception.NotFound):
                delete(made)
            for each in projects:
                pair = {'project_id': each, f'{what}_id': made}
                assert association.find(store, **pair) is None
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

    def test_give_and_take(self, driver, store):
        pair = endpoint(driver, service(driver)), fresh()

        def has():
            listed = bool(driver.list_endpoints_for_project(pair[1]))
            by_endpoint = driver.list_projects_for_endpoint(pair[0])
            assert bool(by_endpoint) is listed
            return listed

        for _, _ in faults.each_crash(
            store,
            lambda: None,
            lambda _: driver.add_endpoint_to_project(*pair),
        ):
            if not has():
                driver.add_endpoint_to_project(*pair)
            assert has()
            driver.remove_endpoint_from_project(*pair)
            assert not has()
        for _, _ in faults.each_crash(
            store,
            lambda: driver.add_endpoint_to_project(*pair),
            lambda _: driver.remove_endpoint_from_project(*pair),
        ):
            if has():
                driver.remove_endpoint_from_project(*pair)
            assert not has()


def rows(store, association, given_id, projects):
    """Return how many rows of associations there are, of either table."""
    column = association.listed_row.columns[0]
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

    @pytest.mark.parametrize('below', [True, False])
    def test_create_region(self, driver, store, below):
        parent = region(driver) if below else None
        target = REGIONS.update if below else REGIONS.insert
        with faults.lose_reply(store, target):
            made = region(driver, parent, note='x')
        assert driver.get_region(made)['note'] == 'x'
        check(driver)

    def test_move_a_region(self, driver, store):
        parent, made = region(driver), region(driver)
        with faults.lose_reply(store, REGIONS.update):
            driver.update_region(made, {'parent_region_id': parent})
        assert driver.get_region(made)['parent_region_id'] == parent

    def test_delete_region(self, driver, store):
        made = region(driver)
        below = region(driver, made)
        with faults.lose_reply(store, REGIONS.delete):
            driver.delete_region(made)
        assert not {made, below} & region_ids(driver)

    @pytest.mark.parametrize(
        'target',
        [ENDPOINTS.insert, SERVICES.update, REGIONS.update],
        ids=['endpoint', 'service', 'region'],
    )
    def test_create_endpoint(self, driver, store, target):
        refers = service(driver), region(driver)
        with faults.lose_reply(store, target):
            made = endpoint(driver, *refers)
        assert made in shown(driver)
        check(driver)

    def test_delete_service(self, driver, store):
        made = service(driver)
        endpoint(driver, made)
        with (
            faults.lose_reply(store, SERVICES.delete),
            faults.lose_reply(store, ENDPOINTS.delete),
        ):
            driver.delete_service(made)
        assert driver.list_services(Hints()) == []
        assert driver.list_endpoints(Hints()) == []

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

    def test_what_was_not_done_is_told(self, driver, store):
        parent = region(driver)
        made = region(driver)
        pair = endpoint(driver, service(driver)), fresh()
        for target, call in (
            (REGIONS.update, lambda: region(driver, parent)),
            (
                REGIONS.update,
                lambda: driver.update_region(
                    made, {'parent_region_id': parent}
                ),
            ),
            (REGIONS.delete, lambda: driver.delete_region(parent)),
            (
                ENDPOINTS_OF.insert,
                lambda: driver.add_endpoint_to_project(*pair),
            ),
        ):
            with (
                faults.fail(store, target),
                pytest.raises(errors.OutcomeUnknown),
            ):
                call()
        assert region_ids(driver) == {parent, made}
        assert driver.get_region(made)['parent_region_id'] is None
        driver.add_endpoint_to_project(*pair)
        with (
            faults.fail(store, ENDPOINTS_OF.delete),
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.remove_endpoint_from_project(*pair)
        driver.check_endpoint_in_project(*pair)

    def test_an_endpoint_that_nobody_was_told_of_is_taken_back(
        self, driver, store
    ):
        refers = service(driver), region(driver)
        with (
            faults.fail(store, REGIONS.update),
            pytest.raises(errors.OutcomeUnknown),
        ):
            endpoint(driver, *refers)
        assert endpoint_ids(driver) == set()


class TestRegionRaces:
    def test_deleted_while_another_comes_below(self, driver, store):
        parent = region(driver)
        with Late(
            store, REGIONS.update, lambda: region(driver, parent)
        ) as late:
            driver.delete_region(parent)
        assert late.failures == [exception.RegionNotFound]
        assert region_ids(driver) == set()

    def test_another_comes_below_while_it_is_deleted(self, driver, store):
        root = region(driver)
        parent = region(driver, root)
        with Late(
            store, REGIONS.delete, lambda: driver.delete_region(root)
        ) as late:
            region(driver, parent)
        assert late.failures == []
        assert region_ids(driver) == set()

    def test_another_is_moved_below_while_it_is_deleted(self, driver, store):
        root, moved = region(driver), region(driver)
        with Late(
            store, REGIONS.delete, lambda: driver.delete_region(root)
        ) as late:
            driver.update_region(moved, {'parent_region_id': root})
        assert late.failures == []
        assert region_ids(driver) == set()

    def test_one_of_two_creators_wins(self, driver, store):
        parent, made = region(driver), fresh()
        with Late(
            store, REGIONS.update, lambda: region(driver, parent, id=made)
        ) as late:
            region(driver, parent, id=made, note='first')
        assert late.failures == [exception.Conflict]
        assert driver.get_region(made)['note'] == 'first'

    def test_two_moves_make_no_circle(self, driver, store):
        one, two = region(driver), region(driver)
        with Late(
            store,
            REGIONS.update,
            lambda: driver.update_region(one, {'parent_region_id': two}),
        ) as late:
            driver.update_region(two, {'parent_region_id': one})
        assert late.failures == [exception.CircularRegionHierarchyError]
        check(driver)

    def test_nor_where_they_touch_no_common_parent(self, driver, store):
        upper, lower = region(driver), region(driver)
        below_upper = region(driver, upper)
        below_lower = region(driver, lower)
        with Late(
            store,
            REGIONS.update,
            lambda: driver.update_region(
                upper, {'parent_region_id': below_lower}
            ),
        ) as late:
            driver.update_region(lower, {'parent_region_id': below_upper})
        assert late.failures == [exception.CircularRegionHierarchyError]
        check(driver)

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
    @pytest.mark.parametrize(
        'target',
        [REGIONS.get_all, ENDPOINTS.get_all, REGIONS.delete],
        ids=['before it looks', 'for endpoints', 'after it looked'],
    )
    def test_it_comes_while_its_region_is_deleted(self, driver, store, target):
        root = region(driver)
        region_id = region(driver, root)
        of_service = service(driver)
        with Late(store, target, lambda: driver.delete_region(root)) as late:
            made = endpoint(driver, of_service, region_id)
        assert late.failures == [exception.RegionDeletionError]
        assert region_ids(driver) == {root, region_id}
        assert made in shown(driver)
        check(driver)

    @pytest.mark.parametrize(
        ('target', 'wins'), [(ENDPOINTS.insert, False), (REGIONS.update, True)]
    )
    def test_its_region_is_deleted_while_it_comes(
        self, driver, store, target, wins
    ):
        region_id, of_service = region(driver), service(driver)
        with Late(
            store, target, lambda: endpoint(driver, of_service, region_id)
        ) as late:
            if wins:
                with pytest.raises(exception.RegionDeletionError):
                    driver.delete_region(region_id)
            else:
                driver.delete_region(region_id)
        assert late.failures == ([] if wins else [exception.ValidationError])
        assert bool(endpoint_ids(driver)) is wins
        check(driver)

    def test_its_region_is_deleted_while_it_moves_there(self, driver, store):
        before, after = region(driver), region(driver)
        made = endpoint(driver, service(driver), before)
        with Late(
            store,
            ENDPOINTS.update,
            lambda: driver.update_endpoint(made, {'region_id': after}),
        ) as late:
            driver.delete_region(after)
        assert late.failures == [exception.ValidationError]
        assert driver.get_endpoint(made)['region_id'] == before
        check(driver)

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

    def test_it_goes_with_the_service_that_it_moves_to(self, driver, store):
        before, after = service(driver), service(driver)
        made = endpoint(driver, before)
        with Late(
            store,
            SERVICES.update,
            lambda: driver.update_endpoint(made, {'service_id': after}),
        ) as late:
            driver.delete_service(after)
        assert late.failures == [exception.EndpointNotFound]
        assert made not in endpoint_ids(driver)

    def test_it_moves_there_while_its_region_is_deleted(self, driver, store):
        before, after = region(driver), region(driver)
        made = endpoint(driver, service(driver), before)
        with Late(
            store, REGIONS.delete, lambda: driver.delete_region(after)
        ) as late:
            driver.update_endpoint(made, {'region_id': after})
        assert late.failures == [exception.RegionDeletionError]
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

    @pytest.mark.parametrize('target', [SERVICES.delete, ENDPOINTS.get_all])
    def test_it_comes_while_its_service_is_deleted(
        self, driver, store, target
    ):
        of_service = service(driver)
        with Late(
            store, target, lambda: driver.delete_service(of_service)
        ) as late:
            if target is SERVICES.delete:
                endpoint(driver, of_service)
            else:
                with pytest.raises(exception.ValidationError):
                    endpoint(driver, of_service)
        assert late.failures == []
        assert endpoint_ids(driver) == set()

    @pytest.mark.parametrize('target', [ENDPOINTS.insert, SERVICES.update])
    def test_its_service_is_deleted_while_it_comes(
        self, driver, store, target
    ):
        of_service = service(driver)
        with Late(store, target, lambda: endpoint(driver, of_service)) as late:
            driver.delete_service(of_service)
        assert late.failures == [exception.ValidationError]
        assert endpoint_ids(driver) == set()

    def test_it_leaves_its_service_while_that_is_deleted(self, driver, store):
        before, after = service(driver), service(driver)
        made = endpoint(driver, before)
        with Late(
            store, ENDPOINTS.delete, lambda: driver.delete_service(before)
        ) as late:
            driver.update_endpoint(made, {'service_id': after})
        assert late.failures == []
        assert shown(driver) == {made}
        check(driver)

    def test_one_of_two_creators_wins(self, driver, store):
        made, of_service = fresh(), service(driver)
        with Late(
            store,
            ENDPOINTS.insert,
            lambda: endpoint(driver, of_service, id=made),
        ) as late:
            endpoint(driver, of_service, id=made, note='first')
        assert late.failures == [exception.Conflict]
        assert driver.get_endpoint(made)['note'] == 'first'


class TestAssociationRaces:
    def test_one_of_two_that_give_it_wins(self, driver, store):
        pair = endpoint(driver, service(driver)), fresh()
        with Late(
            store,
            ENDPOINTS_OF.insert,
            lambda: driver.add_endpoint_to_project(*pair),
        ) as late:
            driver.add_endpoint_to_project(*pair)
        assert late.failures == [exception.Conflict]
        assert rows(store, ENDPOINTS_OF, pair[0], pair[1:]) == 2

    def test_who_takes_it_late_leaves_what_was_given_since(
        self, driver, store
    ):
        pair = endpoint(driver, service(driver)), fresh()
        driver.add_endpoint_to_project(*pair)
        with Late(
            store,
            ENDPOINTS_OF.delete_listed,
            lambda: driver.remove_endpoint_from_project(*pair),
        ) as late:
            driver.add_endpoint_to_project(*pair)
        assert late.failures == []
        assert driver.list_projects_for_endpoint(pair[0]) == [
            {'endpoint_id': pair[0], 'project_id': pair[1]}
        ]

    @pytest.mark.parametrize(
        'target', [GROUPS_OF.insert_listed, GROUPS_OF.insert]
    )
    def test_a_group_is_deleted_while_it_is_given(self, driver, store, target):
        made, project = group(driver), fresh()
        with Late(
            store,
            target,
            lambda: driver.add_endpoint_group_to_project(made, project),
        ) as late:
            driver.delete_endpoint_group(made)
        assert late.failures == [exception.EndpointGroupNotFound]
        assert rows(store, GROUPS_OF, made, [project]) == 0
        assert driver.list_endpoint_groups_for_project(project) == []

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
        # They are listed, and can be removed.
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
