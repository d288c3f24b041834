# SPDX-License-Identifier: Apache-2.0
"""What clients make and remove over and over costs no request more.

Cassandra fails a read that passes 100,000 tombstones.  How many a read passes
is what the node's tracing says, not how long it takes.
"""

import collections
import contextlib
import datetime
import re
import uuid

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints
from lab.waiting import until
from oslo_utils import fixture as time_fixture

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.catalog import driver as catalog
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import lockout, users
from tests.contract import damage

#: Six in ten of those at which Cassandra fails a read.
MANY = 60_000
#: How many of them are under way at once.
AT_ONCE = 50
ALLOWED = 5
LASTING = 1800
#: What one more log-in leaves, whatever came before it.
FEW = 20

_READ = re.compile(r'Read (\d+) live rows.*?(\d+) tombstone cells')


class Traced:
    """What the requests of a block read.

    :ivar rows: how many live rows.
    :ivar tombstones: how many, of cells and of rows.
    """

    def __init__(self):
        self.futures = []
        self.rows = self.tombstones = 0

    def add_up(self):
        said = [
            found
            for future in self.futures
            for event in future.get_query_trace(max_wait=60).events
            if (found := _READ.match(event.description))
        ]
        assert said, 'nothing was read'
        self.rows = sum(int(each[1]) for each in said)
        self.tombstones = sum(int(each[2]) for each in said)


@pytest.fixture
def traced(store, monkeypatch):
    """A function that traces the requests of a block."""

    @contextlib.contextmanager
    def trace():
        session = store.sessions.get().session
        send = session.execute_async
        found = Traced()

        def execute_async(*args, **kwargs):
            future = send(*args, trace=True, **kwargs)
            found.futures.append(future)
            return future

        with monkeypatch.context() as patch:
            patch.setattr(session, 'execute_async', execute_async)
            yield found
        found.add_up()

    return trace


@pytest.fixture
def locking(conf):
    """Users are locked by some wrong passwords."""
    for name, value in (
        ('lockout_failure_attempts', ALLOWED),
        ('lockout_duration', LASTING),
    ):
        conf.set_override(name, value, 'security_compliance')
        conf.set_override('password_hash_rounds', 4, 'identity')
    yield
    conf.clear_override('lockout_failure_attempts', 'security_compliance')
    conf.clear_override('lockout_duration', 'security_compliance')
    conf.clear_override('password_hash_rounds', 'identity')


def attack(store, user_id):
    """Record very many wrong passwords, as all servers at once would."""
    connection = store.sessions.get()
    user = users.get(store, user_id)
    began = clock.utcnow()
    writes = (
        store.bind(
            connection,
            lockout.FAIL_FOR_A_WHILE,
            lockout.FAILED_LOGIN.encode(
                {
                    'user_id': user_id,
                    'lock_epoch': user['lock_epoch'],
                    'attempt': uuid.uuid4(),
                    'failed_at': began - datetime.timedelta(0, 0, number),
                }
            )
            | {'ttl': LASTING + lockout.REMEMBERED},
        )
        for number in range(MANY)
    )
    under_way = collections.deque()
    for write in writes:
        if len(under_way) == AT_ONCE:
            under_way.popleft().result()
        # The time is that of a slow and busy machine.
        under_way.append(connection.session.execute_async(write, timeout=60))
    for each in under_way:
        each.result()


def test_wrong_passwords_cost_no_request_more(store, locking, traced):
    driver = identity.Identity()
    made = damage.fresh('id', 'name', 'domain_id')
    damage.Maker().user(**made, password='right')

    def listed():
        hints = Hints()  # which a list uses up
        hints.add_filter('domain_id', made['domain_id'])
        (found,) = driver.list_users(hints)
        assert found['id'] == made['id']

    requests = {
        'log-in': lambda: driver.authenticate(made['id'], 'right'),
        'reading': lambda: driver.get_user(made['id']),
        'list': listed,
        'look-up': lambda: driver.get_user_by_name(
            made['name'], made['domain_id']
        ),
        'update': lambda: driver.update_user(made['id'], {'email': 'new'}),
        'disabling': lambda: enable(False),
        'enabling': lambda: enable(True),
    }

    def enable(enabled):
        driver.update_user(made['id'], {'enabled': enabled})

    def costs():
        found = {}
        for name, request in requests.items():
            with traced() as cost:
                request()
            found[name] = cost
        return found

    before = costs()
    attack(store, made['id'])
    # While the user is locked: as many rows as lock are read, not all.
    with traced() as locked, pytest.raises(exception.AccountLocked):
        driver.authenticate(made['id'], 'right')
    assert locked.rows <= before['log-in'].rows + ALLOWED
    assert locked.tombstones <= 1.5 * before['log-in'].tombstones
    with time_fixture.TimeFixture() as time:
        time.advance_time_seconds(LASTING + 1)
        # Which ends the lock-out.
        assert driver.authenticate(made['id'], 'right')['id'] == made['id']
    for name, cost in costs().items():
        assert cost.tombstones <= 1.5 * before[name].tombstones + FEW, name
        assert cost.rows <= 1.5 * before[name].rows, name
    with traced() as deletion:
        driver.delete_user(made['id'])
    assert deletion.tombstones <= FEW


def test_wrong_passwords_between_log_ins_leave_nothing(store, locking, traced):
    driver = identity.Identity()
    made = damage.fresh('id', 'name', 'domain_id')
    damage.Maker().user(**made, password='right')
    costs = []
    for _ in range(50):
        for _ in range(ALLOWED - 1):
            with pytest.raises(AssertionError):
                driver.authenticate(made['id'], 'wrong')
        with traced() as cost:
            driver.authenticate(made['id'], 'right')
        costs.append((cost.rows, cost.tombstones))
    # What is left would cost each of them more than those before.  A busy node
    # can read a row twice, if it has to agree on a change again.
    assert min(costs[-3:]) == min(costs[:3])


def test_what_was_removed_costs_until_gc_grace_seconds_are_over(
    store, keyspace, traced
):
    """Also before a compaction: that bound is one of the table."""
    driver = catalog.Catalog()
    session = store.sessions.get().session
    for _ in range(300):
        region_id = uuid.uuid4().hex
        driver.create_region({'id': region_id, 'description': ''})
        driver.delete_region(region_id)

    def cost():
        with traced() as found:
            driver.list_regions(Hints())
        return found.tombstones

    def keep(seconds):
        session.execute(
            f'ALTER TABLE {keyspace}.region WITH gc_grace_seconds = {seconds}'
        )

    assert cost() >= 300
    keep(1)
    try:
        until(lambda: cost() < FEW, 'tombstones that are passed no more')
    finally:
        keep(86400)
