# SPDX-License-Identifier: Apache-2.0
"""Options of domains: promises, and equal answers as Keystone's SQL driver."""

import logging
import traceback
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.resource.config_backends import sql as sql_config

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.resource import domain_config
from tests.contract import sql_oracle
from tests.fault import faults

MODELS = (
    sql_config.WhiteListedConfig,
    sql_config.SensitiveConfig,
    sql_config.ConfigRegister,
)
DOMAINS = ['domain-1', 'domain-2']
GROUPS = ['ldap', 'identity']
OPTIONS = ['url', 'password']
TYPES = ['SQL', 'other']

domain = st.sampled_from(DOMAINS)
group = st.sampled_from(GROUPS)
option = st.sampled_from(OPTIONS)
option_list = st.lists(
    st.fixed_dictionaries(
        {
            'group': group,
            'option': option,
            'value': st.sampled_from(
                ['x', '', 5, None, True, ['a', {'b': 1}]]
            ),
            'sensitive': st.booleans(),
        }
    ),
    max_size=5,
)
created = option_list.map(
    # SQL knows no more than one in each of its tables.
    lambda options: list(
        {
            (each['sensitive'], each['group'], each['option']): each
            for each in options
        }.values()
    )
)
some = st.tuples(st.none() | group, st.none() | option)
calls = st.one_of(
    st.tuples(st.just('create_config_options'), domain, created),
    st.tuples(st.just('create_config_options'), domain, created),
    st.tuples(st.just('update_config_options'), domain, option_list),
    st.tuples(st.just('update_config_options'), domain, option_list),
    st.tuples(
        st.just('get_config_option'), domain, group, option, st.booleans()
    ),
    some.flatmap(
        lambda names: st.tuples(
            st.just('list_config_options'),
            domain,
            *map(st.just, names),
            st.booleans(),
        )
    ),
    some.flatmap(
        lambda names: st.tuples(
            st.just('delete_config_options'), domain, *map(st.just, names)
        )
    ),
    st.tuples(st.just('obtain_registration'), domain, st.sampled_from(TYPES)),
    st.tuples(st.just('read_registration'), st.sampled_from(TYPES)),
    st.tuples(
        st.just('release_registration'),
        domain,
        st.none() | st.sampled_from(TYPES),
    ),
)


@pytest.fixture
def ours(store):
    return domain_config.DomainConfig()


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS):
        yield sql_config.DomainConfig()


def play(driver, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    try:
        said = getattr(driver, name)(*rest)
    except (exception.Error, exception.ConfigRegistrationNotFound) as error:
        return type(error)
    return in_order(said) if name == 'list_config_options' else said


def in_order(found):
    assert type(found) is list
    return sorted(found, key=lambda each: (each['group'], each['option']))


def state(driver):
    return [
        in_order(driver.list_config_options(domain_id, sensitive=sensitive))
        for domain_id in DOMAINS
        for sensitive in (False, True)
    ]


def test_sequences_give_equal_answers(ours, theirs, store, keyspace):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=8, max_size=20))
    def compare(sequence):
        empty(store, keyspace)
        sql_oracle.empty(*MODELS)
        for call in sequence:
            expected, answer = (play(each, call) for each in (theirs, ours))
            assert answer == expected, call
            seen.add((call[0], isinstance(expected, type)))
        assert state(ours) == state(theirs)

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 5
    assert {name for name, failed in seen if failed}


def empty(store, keyspace):
    session = store.sessions.get().session
    for table in ('domain_config', 'config_register'):
        if session.execute(f'SELECT * FROM {keyspace}.{table} LIMIT 1').one():
            session.execute(f'TRUNCATE {keyspace}.{table}', timeout=60)


def new(value='value', sensitive=False, **more):
    return {
        'group': 'ldap',
        'option': 'url',
        'value': value,
        'sensitive': sensitive,
        **more,
    }


class TestCost:
    def test_to_list_them_is_one_read(self, ours, store):
        with faults.counted(store) as sent:
            ours.list_config_options('domain', 'ldap')
        assert sent == [(domain_config.LIST,)]

    def test_a_change_is_a_read_and_a_batch(self, ours, store):
        domain_id = uuid.uuid4().hex
        options = [new(option=str(number)) for number in range(60)]
        with faults.counted(store) as sent:
            ours.create_config_options(domain_id, options)
        assert sent == [
            (domain_config.LIST_NAMES,),
            (domain_config.MARK, *(domain_config.PUT,) * 60),
        ]
        with faults.counted(store) as sent:
            ours.delete_config_options(domain_id)
        assert sent == [
            (domain_config.LIST_NAMES,),
            (domain_config.MARK, *(domain_config.DROP,) * 60),
        ]

    def test_to_delete_nothing_writes_nothing(self, ours, store):
        with faults.counted(store) as sent:
            ours.delete_config_options(uuid.uuid4().hex)
        assert sent == [(domain_config.LIST_NAMES,)]

    def test_a_release_looks_for_its_type_alone(self, ours, store):
        with faults.counted(store) as sent:
            ours.release_registration('domain', 'SQL')
        assert sent == [(domain_config.RELEASE,)]


def test_a_domain_that_has_none_leaves_nothing(ours, store, keyspace):
    domain_id = uuid.uuid4().hex
    ours.create_config_options(domain_id, [new(), new(sensitive=True)])
    ours.delete_config_options(domain_id)
    session = store.sessions.get().session
    assert not session.execute(
        f'SELECT * FROM {keyspace}.domain_config WHERE domain_id = %s',
        (domain_id,),
    ).one()


def first_name(store, domain_id):
    return store.one(
        domain_config.LIST_NAMES, domain_config.NAME, domain_id=domain_id
    )


def test_a_partition_of_its_static_column_alone_is_no_option(ours, store):
    domain_id = uuid.uuid4().hex
    ours.create_config_options(domain_id, [new()])
    # As two datacenters can leave it that change a domain at once.
    seen = first_name(store, domain_id)['incarnation']
    key = {'domain_id': domain_id, 'seen': seen}
    named = {'sensitive': False, 'group': 'ldap', 'option': 'url'}
    assert store.cas(domain_config.DROP, **key, **named)
    assert first_name(store, domain_id) == {
        **dict.fromkeys(domain_config.NAME.columns),
        'incarnation': seen,
    }
    assert ours.list_config_options(domain_id) == []
    with pytest.raises(exception.DomainConfigNotFound):
        ours.get_config_option(domain_id, 'ldap', 'url')
    ours.create_config_options(domain_id, [new('again')])
    assert ours.get_config_option(domain_id, 'ldap', 'url') == {
        'group': 'ldap',
        'option': 'url',
        'value': 'again',
    }


def test_options_without_a_mark_are_options(ours, store):
    domain_id = uuid.uuid4().hex
    ours.create_config_options(domain_id, [new()])
    # As well what two datacenters can leave.
    seen = first_name(store, domain_id)['incarnation']
    assert store.cas(
        domain_config.MARK, domain_id=domain_id, incarnation=None, seen=seen
    )
    ours.update_config_options(domain_id, [new(option='more')])
    assert len(ours.list_config_options(domain_id)) == 2
    ours.delete_config_options(domain_id)
    assert ours.list_config_options(domain_id) == []


@pytest.mark.parametrize(
    'more', [{'group': 'x' * 256}, {'option': 'x' * 256}, {}]
)
def test_what_is_too_long_for_sql_is_too_long_here(ours, theirs, more):
    domain_id = uuid.uuid4().hex if more else 'x' * 65
    for driver in (theirs, ours):
        for method in ('create_config_options', 'update_config_options'):
            with pytest.raises(exception.StringLengthExceeded):
                getattr(driver, method)(domain_id, [new(**more)])


@pytest.mark.parametrize(
    'ids', [('x' * 65, 'SQL'), ('domain', 'x' * 65)], ids=['domain', 'type']
)
def test_a_registration_that_is_too_long(ours, theirs, ids):
    for driver in (theirs, ours):
        with pytest.raises(exception.StringLengthExceeded):
            driver.obtain_registration(*ids)


def test_an_option_given_twice_has_the_last_value(ours):
    domain_id = uuid.uuid4().hex
    ours.create_config_options(domain_id, [new('a'), new('b')])
    (found,) = ours.list_config_options(domain_id)
    assert found['value'] == 'b'


class TestSecrets:
    """Values of sensitive options are in no message and no log."""

    SECRET = 'a password to look for'

    @pytest.fixture
    def told(self, caplog):
        with caplog.at_level(logging.DEBUG):
            yield lambda: caplog.text

    def test_what_goes_well(self, ours, told):
        domain_id = uuid.uuid4().hex
        secret = new(self.SECRET, sensitive=True)
        ours.create_config_options(domain_id, [secret])
        ours.update_config_options(domain_id, [secret, new(option='user')])
        found = ours.list_config_options(domain_id, sensitive=True)
        assert found[0]['value'] == self.SECRET
        assert self.SECRET not in told()

    @pytest.mark.parametrize('name', ['fail', 'lose_reply'])
    def test_what_fails(self, ours, store, told, name):
        domain_id = uuid.uuid4().hex
        secret = new(self.SECRET, sensitive=True)
        ours.create_config_options(domain_id, [secret])
        with (
            getattr(faults, name)(store, domain_config.MARK, times=2),
            faults.fail(store, domain_config.SETTLE, times=2),
            pytest.raises(errors.StoreUnavailable) as caught,
        ):
            ours.update_config_options(domain_id, [secret])
        text = ''.join(traceback.format_exception(caught.value))
        assert 'not' in text
        assert self.SECRET not in text
        assert 'domain_config' in told()
        assert self.SECRET not in told()

    def test_a_change_does_not_read_them(self, ours, store):
        domain_id = uuid.uuid4().hex
        with faults.counted(store) as sent:
            ours.create_config_options(domain_id, [new(self.SECRET, True)])
            ours.list_config_options(domain_id)
            ours.delete_config_options(domain_id)
        reads = {step for steps in sent for step in steps} - {
            domain_config.LIST,
            domain_config.MARK,
            domain_config.PUT,
            domain_config.DROP,
        }
        assert reads == {domain_config.LIST_NAMES}
        assert 'value' not in domain_config.NAME.columns


@pytest.mark.parametrize('change', ['create', 'update'])
@pytest.mark.parametrize(
    ('value', 'warned'),
    [
        ('FIRST$SECOND', True),
        ('FIRST${SECOND}', True),
        ('FIRST$$SECOND', False),
        ('FIRST$ %s "\' 100%', False),
        (5, False),
    ],
)
def test_what_keystone_cannot_read_back_is_warned_of(
    ours, caplog, value, warned, change
):
    option = {
        'group': 'ldap',
        'option': 'password',
        'sensitive': True,
        'value': value,
    }
    domain_id = uuid.uuid4().hex
    with caplog.at_level(logging.WARNING, 'keystone_cassandra_token'):
        getattr(ours, f'{change}_config_options')(domain_id, [option])
    found = ours.get_config_option(domain_id, 'ldap', 'password', True)
    assert found['value'] == value
    assert bool(caplog.messages) is warned
    for line in caplog.messages:
        assert f'Domain {domain_id}: [ldap] password' in line
        assert 'FIRST' not in line
        assert 'SECOND' not in line
