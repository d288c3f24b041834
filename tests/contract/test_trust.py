# SPDX-License-Identifier: Apache-2.0
"""What the trust driver promises, method by method.

Equal answers to whole sequences of calls are compared with Keystone's SQL
driver in a module of its own.
"""

import datetime
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import trust
from tests.fault import faults

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def driver(store):
    return trust.Trust()


def new(**values):
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'impersonation': True,
        'expires_at': clock.utcnow() + HOUR,
        'remaining_uses': None,
        **values,
    }


def make(driver, roles=(), **values):
    trust_id = uuid.uuid4().hex
    driver.create_trust(trust_id, new(**values), list(roles))
    return trust_id


def test_round_trip(driver):
    trust_id = uuid.uuid4().hex
    values = new(
        remaining_uses=3,
        redelegated_trust_id=uuid.uuid4().hex,
        redelegation_count=2,
        note={'nested': ['ä', 1, None]},
    )
    roles = [{'id': 'b', 'name': 'not kept'}, {'id': 'a'}]
    created = driver.create_trust(trust_id, values, roles)
    expected = values | {
        'id': trust_id,
        'deleted_at': None,
        'roles': [{'id': 'b'}, {'id': 'a'}],
    }
    assert created == expected
    assert driver.get_trust(trust_id) == expected
    del expected['roles']  # lists are without, as with SQL
    for listed in (
        driver.list_trusts_for_trustor(values['trustor_user_id']),
        driver.list_trusts_for_trustee(values['trustee_user_id']),
        driver.list_trusts_for_trustor(
            values['trustor_user_id'], values['redelegated_trust_id']
        ),
        [each for each in driver.list_trusts() if each['id'] == trust_id],
    ):
        assert type(listed) is list
        assert listed == [expected]


def test_microseconds_and_zones(driver):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = clock.utcnow().replace(microsecond=123457) + HOUR
    aware = (moment + 2 * HOUR).replace(tzinfo=zone)
    trust_id = make(driver, expires_at=aware)
    assert driver.get_trust(trust_id)['expires_at'] == moment


def test_one_read_to_get_and_two_for_a_limited_one(driver, store):
    trust_id, limited = make(driver), make(driver, remaining_uses=1)
    with faults.counted(store) as sent:
        driver.get_trust(trust_id)
    assert sent == [(trust.GET,)]
    with faults.counted(store) as sent:
        driver.get_trust(limited)
    assert sent == [(trust.GET,), (trust.GET_USE,)]


def test_to_consume_is_one_conditional_write(driver, store):
    trust_id = make(driver, remaining_uses=5)
    with faults.counted(store) as sent:
        driver.consume_use(trust_id)
    writes = [steps for steps in sent if steps[0].verb != 'SELECT']
    assert writes == [(trust.CONSUME_EXPIRING,)]


def test_unlimited_trusts_are_never_counted(driver, store, keyspace):
    trust_id = make(driver)
    with faults.counted(store) as sent:
        for _ in range(3):
            driver.consume_use(trust_id)
    assert set(sent) == {(trust.GET,)}


def test_unknown_trusts(driver):
    unknown = uuid.uuid4().hex
    for call in (
        driver.get_trust,
        driver.delete_trust,
        driver.consume_use,
        lambda trust_id: driver.get_trust(trust_id, deleted=True),
    ):
        with pytest.raises(exception.TrustNotFound):
            call(unknown)
    assert driver.list_trusts_for_trustor(unknown) == []
    assert driver.list_trusts_for_trustee(unknown) == []
    assert driver.delete_trusts_for_project(unknown) is None
    assert driver.flush_expired_and_soft_deleted_trusts(unknown) is None


@pytest.mark.parametrize('deletion', ['delete_trust', 'project'])
def test_deleted(driver, deletion):
    values = new(remaining_uses=2)
    trust_id = uuid.uuid4().hex
    driver.create_trust(trust_id, values, [{'id': 'role'}])
    before = clock.utcnow()
    if deletion == 'project':
        driver.delete_trusts_for_project(values['project_id'])
    else:
        driver.delete_trust(trust_id)
    for call in (driver.get_trust, driver.consume_use):
        with pytest.raises(exception.TrustNotFound):
            call(trust_id)
    assert driver.list_trusts_for_trustor(values['trustor_user_id']) == []
    assert driver.list_trusts_for_trustee(values['trustee_user_id']) == []
    kept = driver.get_trust(trust_id, deleted=True)
    assert before <= kept.pop('deleted_at') <= clock.utcnow()
    assert kept == values | {
        'id': trust_id,
        'roles': [{'id': 'role'}],
        'redelegated_trust_id': None,
        'redelegation_count': None,
    }
    driver.delete_trust(trust_id)  # again, as with SQL
    # An equal one cannot be made before it is flushed.
    with pytest.raises(exception.Conflict):
        make(driver, **values)
    driver.flush_expired_and_soft_deleted_trusts(
        project_id=values['project_id'], date=clock.utcnow()
    )
    with pytest.raises(exception.TrustNotFound):
        driver.get_trust(trust_id, deleted=True)
    make(driver, **values)


def test_expired_and_used_up(driver):
    expired = make(driver, expires_at=clock.utcnow() - HOUR)
    used_up = make(driver, remaining_uses=1)
    driver.consume_use(used_up)
    for trust_id in (expired, used_up):
        with pytest.raises(exception.TrustNotFound):
            driver.get_trust(trust_id)
        assert driver.get_trust(trust_id, deleted=True)['id'] == trust_id
        assert trust_id in {each['id'] for each in driver.list_trusts()}
    with pytest.raises(exception.TrustUseLimitReached):
        driver.consume_use(used_up)


KEY = (
    'trustor_user_id',
    'trustee_user_id',
    'project_id',
    'impersonation',
    'expires_at',
)


def test_equal_trusts(driver):
    values = new()
    make(driver, **values)
    with pytest.raises(exception.Conflict):
        make(driver, **values, redelegation_count=3)
    for name in KEY:
        other = {
            'impersonation': False,
            'expires_at': values['expires_at']
            + datetime.timedelta(microseconds=1),
        }.get(name, uuid.uuid4().hex)
        make(driver, **values | {name: other})


@pytest.mark.parametrize('name', ['project_id', 'expires_at'])
def test_null_is_equal_to_nothing(driver, name):
    values = new(**{name: None})
    assert make(driver, **values) != make(driver, **values)


@pytest.mark.parametrize(
    'name',
    [name for name, column in trust.TRUST.columns.items() if column.length],
)
def test_long_strings(driver, store, name):
    values = new(**{name: 'ä' * 64})
    trust_id = values.pop('id', uuid.uuid4().hex)
    driver.create_trust(trust_id, values, [])
    assert driver.get_trust(trust_id)[name] == 'ä' * 64
    driver.delete_trust(trust_id)
    driver.flush_expired_and_soft_deleted_trusts(
        trustor_user_id=values['trustor_user_id']
    )
    values = new(**{name: 'ä' * 65})
    trust_id = values.pop('id', uuid.uuid4().hex)
    with (
        faults.counted(store) as sent,
        pytest.raises(exception.StringLengthExceeded),
    ):
        driver.create_trust(trust_id, values, [])
    assert sent == []


class TestFlush:
    NAMES = ('project_id', 'trustor_user_id', 'trustee_user_id')

    @pytest.fixture
    def made(self, driver):
        """Trusts by what has become of them; half share their owners."""
        shared = {name: uuid.uuid4().hex for name in self.NAMES}
        made = {}
        for number, owners in enumerate((shared, {})):
            for kind in ('live', 'deleted', 'expired', 'endless'):
                expires_at = {
                    'expired': clock.utcnow() - HOUR,
                    'endless': None,
                }.get(kind, clock.utcnow() + (2 + number) * HOUR)
                made[kind, bool(owners)] = make(
                    driver, expires_at=expires_at, **owners, remaining_uses=1
                )
        for (kind, _), trust_id in made.items():
            if kind == 'deleted':
                driver.delete_trust(trust_id)
        return shared, made

    def left(self, driver, made):
        found = set()
        for what, trust_id in made.items():
            try:
                driver.get_trust(trust_id, deleted=True)
            except exception.TrustNotFound:
                continue
            found.add(what)
        return found

    @pytest.mark.parametrize(
        'filters',
        [(), *[(name,) for name in NAMES], NAMES],
        ids=lambda names: '+'.join(names) or 'none',
    )
    def test_by_filter(self, driver, made, filters):
        shared, trusts = made
        driver.flush_expired_and_soft_deleted_trusts(
            **{name: shared[name] for name in filters}, date=clock.utcnow()
        )
        gone = {
            (kind, owned)
            for kind in ('deleted', 'expired')
            for owned in ({True} if filters else {True, False})
        }
        assert self.left(driver, trusts) == set(trusts) - gone

    def test_filters_that_no_trust_fits(self, driver, made):
        shared, trusts = made
        driver.flush_expired_and_soft_deleted_trusts(
            project_id=shared['project_id'],
            trustee_user_id=uuid.uuid4().hex,
            date=clock.utcnow(),
        )
        assert self.left(driver, trusts) == set(trusts)

    @pytest.mark.parametrize('hours', [-2, 1.5, 2.5])
    def test_by_date(self, driver, made, hours):
        shared, trusts = made
        driver.flush_expired_and_soft_deleted_trusts(
            project_id=shared['project_id'],
            date=clock.utcnow() + hours * HOUR,
        )
        gone = {('deleted', True)}
        if hours > -1:
            gone.add(('expired', True))
        if hours > 2:
            gone.add(('live', True))
        assert self.left(driver, trusts) == set(trusts) - gone


def test_an_owner_with_many_trusts(driver):
    shared = uuid.uuid4().hex
    ids = {make(driver, trustee_user_id=shared) for _ in range(50)}
    found = driver.list_trusts_for_trustee(shared)
    assert {each['id'] for each in found} == ids
    assert len(found) == 50
