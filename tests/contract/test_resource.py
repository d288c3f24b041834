# SPDX-License-Identifier: Apache-2.0
"""Projects and domains: promises, and equal answers as Keystone's SQL."""

import contextlib
import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.common import sql
from keystone.common.driver_hints import Hints
from keystone.resource.backends import sql as sql_resource
from keystone.resource.backends import sql_model
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.resource import driver as resource
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.drivers.resource.projects import (
    BY_PARENT,
    PROJECTS,
)
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (sql_model.ProjectOption, sql_model.ProjectTag, sql_model.Project)
DOMAINS = ['domain-1', 'domain-2']
PROJECT_IDS = [f'project-{number}' for number in range(6)]
IDS = [*DOMAINS, *PROJECT_IDS]
NAMES = ['anna', 'bert', 'carl', 'dora']
TAGS = ['red', 'green', 'Red']

attributes = {
    'enabled': st.booleans(),
    'description': st.sampled_from(['', 'x', None]),
    'note': st.sampled_from(['x', None, {'a': [1]}]),
    'tags': st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
    'options': st.sampled_from(
        [{}, {'immutable': True}, {'immutable': None}, {'unknown': 1}]
    ),
}
domain = st.fixed_dictionaries(
    {
        'name': st.sampled_from(NAMES),
        'domain_id': st.none(),
        'parent_id': st.none(),
        'is_domain': st.just(True),
    },
    optional=attributes,
)
# As Keystone's manager makes them: in a domain, below it or a project.
project = st.builds(
    lambda number, given, domain_id, parent: (
        PROJECT_IDS[number],
        given
        | {
            'domain_id': domain_id,
            'parent_id': PROJECT_IDS[parent] if parent < number else domain_id,
        },
    ),
    st.integers(0, len(PROJECT_IDS) - 1),
    st.fixed_dictionaries(
        {'name': st.sampled_from(NAMES), 'is_domain': st.just(False)},
        optional=attributes,
    ),
    st.sampled_from(DOMAINS[:1] * 3 + DOMAINS[1:]),
    st.integers(0, len(PROJECT_IDS) - 1),
)
changes = st.fixed_dictionaries(
    {}, optional=attributes | {'name': st.sampled_from(NAMES)}
)
project_id = st.sampled_from([*IDS, *PROJECT_IDS[:1] * 3])
some_ids = st.lists(project_id, max_size=3, unique=True)
filters = st.lists(
    st.sampled_from(
        [
            ('domain_id', DOMAINS[0], 'equals'),
            ('domain_id', None, 'equals'),
            ('parent_id', DOMAINS[0], 'equals'),
            ('parent_id', PROJECT_IDS[0], 'equals'),
            ('is_domain', True, 'equals'),
            ('name', NAMES[0], 'equals'),
            ('name', 'R', 'contains'),
            ('name', 'c', 'startswith'),
            ('enabled', True, 'equals'),
            ('note', 'x', 'equals'),
        ]
    ),
    max_size=2,
    unique_by=lambda entry: entry[0],
)
tag_filters = st.dictionaries(
    st.sampled_from(['tags', 'tags-any', 'not-tags', 'not-tags-any']),
    st.sampled_from(['red', 'red,green', 'Red', 'green,Red']),
    min_size=1,
    max_size=3,
)
calls = st.one_of(
    st.tuples(st.just('create_project'), st.sampled_from(DOMAINS), domain),
    *[st.builds(lambda made: ('create_project', *made), project)] * 4,
    st.tuples(st.just('update_project'), project_id, changes),
    st.tuples(st.just('update_project'), project_id, changes),
    st.tuples(st.just('delete_project'), project_id),
    st.tuples(st.just('delete_projects_from_ids'), some_ids),
    st.tuples(st.just('get_project'), project_id),
    st.tuples(
        st.just('get_project_by_name'),
        st.sampled_from(NAMES),
        st.sampled_from([*DOMAINS, None]),
    ),
    st.tuples(
        st.just('list_projects'),
        filters,
        st.sampled_from([None, None, 1, 2, 10]),
        st.none() | project_id,
    ),
    st.tuples(st.just('list_projects_from_ids'), some_ids),
    st.tuples(
        st.just('list_project_ids_from_domain_ids'),
        st.lists(st.sampled_from(DOMAINS), unique=True),
    ),
    st.tuples(st.just('list_projects_in_domain'), project_id),
    st.tuples(st.just('list_projects_in_subtree'), project_id),
    st.tuples(st.just('list_project_parents'), project_id),
    st.tuples(st.just('is_leaf_project'), project_id),
    st.tuples(st.just('check_project_depth'), st.integers(1, 3)),
    st.tuples(st.just('list_projects_by_tags'), tag_filters),
    st.tuples(st.just('list_projects_by_tags'), tag_filters),
)


@pytest.fixture
def ours(store):
    return resource.Resource()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_resource.Resource()


def add_root():
    with sql.session_for_write() as session:
        session.add(
            sql_model.Project(
                id=NULL_DOMAIN_ID,
                name=NULL_DOMAIN_ID,
                domain_id=NULL_DOMAIN_ID,
                is_domain=True,
                extra={},
            )
        )


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    method = getattr(driver, name)
    try:
        if name == 'create_project':
            return in_order(method(rest[0], rest[1] | {'id': rest[0]}))
        if name == 'list_projects':
            return listed(method, *rest)
        return in_order(method(*rest))
    except exception.Error as error:
        return type(error)


def in_order(said):
    """Return what was said without the orders that SQL does not promise."""
    if isinstance(said, list):
        return sorted(map(in_order, said), key=str)
    if isinstance(said, dict):
        return said | {'tags': sorted(said['tags'])}
    return said


def listed(method, wanted, limit, marker):
    hints = Hints()
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if limit:
        hints.set_limit(limit)
    hints.marker = marker
    found = [in_order(each) for each in method(hints)]
    assert found == sorted(found, key=lambda each: each['id'])
    return found, [entry['name'] for entry in hints.filters], hints.limit


#: What SQL tells as an error of its own, and what is told here.
FOREIGN_KEYS = {
    exception.ProjectNotFound,
    exception.DomainNotFound,
    exception.ForbiddenNotSecurity,
}


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=12, max_size=30))
    def compare(sequence):
        empty(store, keyspace)
        sql_oracle.empty(sql_model.ProjectOption, sql_model.ProjectTag)
        with sql.session_for_write() as session:
            session.connection().exec_driver_sql(
                'PRAGMA defer_foreign_keys = ON'
            )
            session.query(sql_model.Project).delete()
        add_root()
        for name in DOMAINS:
            for driver in (theirs, ours):
                driver.create_project(
                    name,
                    {
                        'id': name,
                        'name': name,
                        'domain_id': None,
                        'is_domain': True,
                    },
                )
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            if expected is exception.UnexpectedError:
                assert answer in FOREIGN_KEYS, call
                seen.add((call[0], answer))
                if call[0] == 'delete_projects_from_ids':
                    return  # ours deleted those that it could
                continue
            assert answer == expected, call
            seen.add((call[0], expected if isinstance(expected, type) else 0))

    compare()
    # Chance decides what happens; most of this does, in any run.
    happened = {name for name, _ in seen}
    assert len(happened) > 12
    assert len([said for _, said in seen if said]) > 5


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in (
        'project',
        'project_by_domain',
        'project_by_parent',
        'project_by_tag',
        'project_claim',
    ):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def make(driver, parent=None, **values):
    """Create a project, in the root or below another one."""
    made = {
        'id': uuid.uuid4().hex,
        'name': uuid.uuid4().hex,
        'domain_id': parent and (parent['domain_id'] or parent['id']),
        'parent_id': parent and parent['id'],
        'is_domain': parent is None,
        'enabled': True,
        **values,
    }
    return driver.create_project(made['id'], made)


class TestCost:
    def test_a_name_is_two_reads_and_one_again(self, ours, store):
        made = make(ours)
        claim, project = (PROJECTS.claims.get,), (PROJECTS.entity.get,)
        for expected in ([claim, project], [project]):
            with faults.counted(store) as sent:
                ours.get_project_by_name(made['name'], None)
            assert sent == expected

    def test_an_owner_that_changed_is_noticed(self, ours):
        first = make(ours)
        assert ours.get_project_by_name(first['name'], None) == first
        ours.delete_project(first['id'])
        with pytest.raises(exception.ProjectNotFound):
            ours.get_project_by_name(first['name'], None)
        second = make(ours, name=first['name'])
        assert ours.get_project_by_name(first['name'], None) == second
        ours.update_project(second['id'], {'name': uuid.uuid4().hex})
        with pytest.raises(exception.ProjectNotFound):
            ours.get_project_by_name(first['name'], None)

    def test_who_had_a_name_is_not_believed_after_another_took_it(
        self, ours, store
    ):
        """A rename that stalled, and then died, leaves its row with the name.

        The claim is another's by then, who took it over.
        """
        first = make(ours)
        name = first['name']
        assert ours.get_project_by_name(name, None) == first
        ours.update_project(first['id'], {'name': uuid.uuid4().hex})
        second = make(ours, name=name)
        PROJECTS.entity.change(store, first['id'], {'name': name})
        assert ours.get_project(first['id'])['name'] == name
        assert ours.get_project_by_name(name, None) == second

    def test_a_subtree_is_read_level_by_level(self, ours, store):
        domain = make(ours)
        root = make(ours, domain)
        for _ in range(3):
            child = make(ours, root)
            for _ in range(3):
                make(ours, child)
        with faults.counted(store) as sent:
            found = ours.list_projects_in_subtree(root['id'])
        assert len(found) == 12
        # The domain's index; then ids and projects of two levels; the third
        # has none.
        assert len(sent) == 1 + 2 * 2 + 1
        with faults.counted(store) as sent:
            assert len(ours.list_projects_in_subtree(domain['id'])) == 13
        assert len(sent) == 2

    def test_what_is_above_is_one_read_again(self, ours, store):
        domain = make(ours)
        parent = make(ours, domain)
        child = make(ours, parent)
        for expected in (3, 1):
            with faults.counted(store) as sent:
                found = ours.list_project_parents(child['id'])
            assert found == [parent, domain]
            assert len(sent) == expected

    def test_what_was_above_in_a_former_life_is_no_answer(self, ours, store):
        first, second = make(ours), make(ours)
        child = make(ours, first)
        assert ours.list_project_parents(child['id']) == [first]
        ours.delete_project(child['id'])
        with pytest.raises(exception.ProjectNotFound):
            ours.list_project_parents(child['id'])
        make(ours, second, id=child['id'])
        assert ours.list_project_parents(child['id']) == [second]
        changed = ours.update_project(second['id'], {'description': 'new'})
        (above,) = ours.list_project_parents(child['id'])
        assert above['description'] == changed['description'] == 'new'


class TestForeignKeys:
    def test_a_parent_with_children_stays(self, ours):
        parent = make(ours, make(ours))
        child = make(ours, parent)
        with pytest.raises(exception.ForbiddenNotSecurity):
            ours.delete_project(parent['id'])
        assert ours.get_project(parent['id']) == parent
        # And can have more.
        make(ours, parent)
        assert ours.get_project(child['id']) == child

    @pytest.mark.parametrize('missing', ['parent_id', 'domain_id'])
    def test_a_missing_parent_is_told(self, ours, missing):
        domain = make(ours)
        values = {'domain_id': domain['id'], 'parent_id': domain['id']}
        name = uuid.uuid4().hex
        with pytest.raises(exception.NotFound):
            make(ours, name=name, **values | {missing: uuid.uuid4().hex})
        hints = Hints()
        hints.add_filter('name', name)
        assert ours.list_projects(hints) == []
        make(ours, name=name, is_domain=False, **values)

    def test_a_child_that_comes_while_its_parent_is_deleted(self, ours, store):
        """The deletion has looked for children; then one is made."""
        parent = make(ours, make(ours))
        refused = []

        def add():
            with pytest.raises(exception.Conflict) as raised:
                make(ours, parent, name='late')
            refused.append(raised)

        with faults.hold(store, PROJECTS.entity.bury) as held:
            late = threading.Thread(
                target=ours.delete_project, args=[parent['id']]
            )
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            add()
            held.release()
            late.join(faults.PATIENCE)
        assert refused
        assert left_below(store, parent) == []
        with pytest.raises(exception.ProjectNotFound):
            ours.get_project(parent['id'])

    def test_a_parent_that_is_deleted_while_a_child_comes(self, ours, store):
        """The child is written, and not yet checked; then its parent goes."""
        parent = make(ours, make(ours))
        made = []
        with faults.hold(store, PROJECTS.entity.settle) as held:
            late = threading.Thread(
                target=lambda: made.append(make(ours, parent))
            )
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            with pytest.raises(exception.ForbiddenNotSecurity):
                ours.delete_project(parent['id'])
            held.release()
            late.join(faults.PATIENCE)
        assert [each['id'] for each in made] == left_below(store, parent)

    def test_a_child_whose_parent_is_not_known_to_be_there_goes(
        self, ours, store
    ):
        parent = make(ours, make(ours))
        with (
            faults.fail(store, PROJECTS.entity.settle),
            pytest.raises(errors.StoreUnavailable),
        ):
            make(ours, parent, name='child')
        assert left_below(store, parent) == []
        make(ours, parent, name='child')

    def test_a_deletion_that_died_is_over_after_a_minute(
        self, ours, store, monkeypatch
    ):
        parent = make(ours, make(ours))
        # Closed, looked for children, and died.
        with faults.crash(store, 6) as point:
            ours.delete_project(parent['id'])
        assert point.fired
        assert PROJECTS.entity.find(store, parent['id'])['closed_at']
        assert ours.get_project(parent['id']) == parent
        with pytest.raises(exception.Conflict):
            make(ours, parent)
        monkeypatch.setattr(resource, 'CLOSED', -resource.CLOSED)
        child = make(ours, parent)
        assert ours.get_project(child['id']) == child
        with pytest.raises(exception.ForbiddenNotSecurity):
            ours.delete_project(parent['id'])

    def test_a_deletion_that_was_slow_starts_again(
        self, ours, store, monkeypatch
    ):
        parent = make(ours, make(ours))
        monkeypatch.setattr(resource, 'CLOSED', -resource.CLOSED)
        refused = []

        def delete():
            with pytest.raises(exception.ForbiddenNotSecurity) as raised:
                ours.delete_project(parent['id'])
            refused.append(raised)

        with faults.hold(store, PROJECTS.entity.bury) as held:
            late = threading.Thread(target=delete)
            late.start()
            assert held.reached.wait(faults.PATIENCE)
            child = threading.Thread(target=make, args=[ours, parent])
            # Its own claim is not the one that is held.
            child.start()
            child.join(faults.PATIENCE)
            held.release()
            late.join(faults.PATIENCE)
        assert refused
        assert ours.get_project(parent['id']) == parent
        assert len(left_below(store, parent)) == 1

    def test_who_opens_late_finds_it_gone(self, ours, store, monkeypatch):
        """The parent is closed for long, and goes before it is opened."""
        parent = make(ours, make(ours))
        with faults.crash(store, 6):
            ours.delete_project(parent['id'])
        monkeypatch.setattr(resource, 'CLOSED', -resource.CLOSED)
        sent = []

        def gone_first(statements, send):
            sent.extend(statements)
            # It was found closed, and is looked at again to be opened.
            if sent[-2:] == [PROJECTS.entity.settle, PROJECTS.entity.get]:
                PROJECTS.remove(store, parent['id'])
            return send()

        with (
            faults.intercepted(store, gone_first),
            pytest.raises(exception.ProjectNotFound),
        ):
            make(ours, parent)
        assert PROJECTS.entity.find(store, parent['id']) is None
        assert left_below(store, parent) == []

    def test_many_do_both_at_once(self, ours, store):
        """Never an orphan that no call can see."""
        domain = make(ours)
        for _ in range(5):
            parent = make(ours, domain)
            start = threading.Barrier(4)

            def add(parent=parent, start=start):
                start.wait()
                with contextlib.suppress(
                    exception.Conflict, exception.NotFound
                ):
                    make(ours, parent)

            def delete(parent=parent, start=start):
                start.wait()
                with contextlib.suppress(
                    exception.ForbiddenNotSecurity, exception.NotFound
                ):
                    ours.delete_project(parent['id'])

            threads = [
                threading.Thread(target=each)
                for each in (add, delete, add, delete)
            ]
            for each in threads:
                each.start()
            for each in threads:
                each.join(faults.PATIENCE)
            children = left_below(store, parent)
            there = PROJECTS.entity.find(store, parent['id'])
            assert there or not children

    def test_an_orphan_can_be_read_listed_and_deleted(self, ours, store):
        """As two datacenters can leave one."""
        domain = make(ours)
        parent = make(ours, domain)
        child = make(ours, parent)
        PROJECTS.remove(store, parent['id'])
        assert ours.get_project(child['id']) == child
        assert child in ours.list_projects_in_domain(domain['id'])
        ours.delete_project(child['id'])
        assert left_below(store, parent) == []


def left_below(store, parent):
    return [
        child['id']
        for child in PROJECTS.entity.find_by(store, BY_PARENT, parent['id'])
    ]


class TestCrashes:
    """After each request: the old state or the new, and again succeeds."""

    def test_creation(self, ours, store):
        domain, red = make(ours), uuid.uuid4().hex

        def prepare():
            return {
                'id': uuid.uuid4().hex,
                'name': uuid.uuid4().hex,
                'domain_id': domain['id'],
                'parent_id': domain['id'],
                'is_domain': False,
                'tags': [red],
            }

        def create(given):
            ours.create_project(given['id'], given)

        for _, given_ in faults.each_crash(store, prepare, create):
            found = ours.list_projects_from_ids([given_['id']])
            if not found:
                create(given_)
                found = ours.list_projects_from_ids([given_['id']])
            assert len(found) == 1
            assert found[0]['tags'] == [red]
            assert found == ours.list_projects_by_tags({'tags': red})
            ours.delete_project(given_['id'])

    def test_deletion(self, ours, store):
        domain, red = make(ours), uuid.uuid4().hex

        def prepare():
            return make(ours, domain, tags=[red])

        def delete(made):
            ours.delete_project(made['id'])

        for _, made in faults.each_crash(store, prepare, delete):
            found = ours.list_projects_from_ids([made['id']])
            assert found in ([], [made])
            if found:
                delete(made)
            assert ours.list_projects_by_tags({'tags': red}) == []
            assert ours.list_projects_in_domain(domain['id']) == []

    def test_change_of_tags(self, ours, store):
        domain = make(ours)
        red, green = uuid.uuid4().hex, uuid.uuid4().hex

        def prepare():
            return make(ours, domain, tags=[red])

        def change(made):
            ours.update_project(made['id'], {'tags': [green]})

        for _, made in faults.each_crash(store, prepare, change):
            (tag,) = ours.get_project(made['id'])['tags']
            for each in (red, green):
                found = ours.list_projects_by_tags({'tags': each})
                assert bool(found) is (each == tag)
            change(made)
            assert ours.get_project(made['id'])['tags'] == [green]
            ours.delete_project(made['id'])


def test_sixteen_create_one_name(ours):
    domain = make(ours)
    outcomes = []
    start = threading.Barrier(16)

    def create():
        start.wait()
        try:
            outcomes.append(make(ours, domain, name='wanted')['id'])
        except exception.Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=create) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(faults.PATIENCE)
    winners = [each for each in outcomes if each]
    assert len(outcomes) == 16
    assert len(winners) <= 1
    there = [each['id'] for each in ours.list_projects_in_domain(domain['id'])]
    assert there == winners


def test_a_domain_is_in_no_domain(ours, store):
    made = make(ours)
    assert made['domain_id'] is None
    stored = PROJECTS.entity.find(store, made['id'])
    assert stored['domain_id'] == projects.NULL_DOMAIN_ID


def test_an_empty_id_is_nobodys(ours):
    made = make(ours)
    assert ours.list_projects_from_ids(['', made['id']]) == [made]
    with pytest.raises(exception.ProjectNotFound):
        ours.list_project_parents('')


def test_what_is_not_there_is_not_deleted_and_said(ours, caplog):
    made = make(ours)
    missing = uuid.uuid4().hex
    ours.delete_projects_from_ids((made['id'], missing))
    assert [each.args for each in caplog.records] == [(missing,)]
    assert ours.list_projects_from_ids([made['id']]) == []


def test_the_root_of_all_domains_is_hidden(ours):
    ours.create_project(
        NULL_DOMAIN_ID,
        {'id': NULL_DOMAIN_ID, 'name': NULL_DOMAIN_ID, 'domain_id': None},
    )
    with pytest.raises(exception.ProjectNotFound):
        ours.get_project(NULL_DOMAIN_ID)
    assert NULL_DOMAIN_ID not in {
        each['id'] for each in ours.list_projects(Hints())
    }


def test_entities_that_are_read_together_come_unpaged(store):
    """By pages Cassandra would read one partition after the other."""
    prepared = store.sessions.get().prepare(PROJECTS.entity.get_some)
    assert prepared.bind([['one', 'two']]).fetch_size is None
