# SPDX-License-Identifier: Apache-2.0
"""Federation: what the driver promises, and equal answers as with SQL."""

import copy
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception
from keystone.common import provider_api
from keystone.common.driver_hints import Hints
from keystone.federation.backends import sql as sql_federation
from keystone.identity import generator
from keystone.identity.backends import sql as sql_identity
from keystone.identity.backends import sql_model
from keystone.identity.shadow_backends import sql as sql_shadow
from oslo_db import exception as db_exception

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import (
    federation,
    memberships,
    shadow_users,
)
from keystone_cassandra_token.drivers.identity.federation import (
    IDPS,
    MAPPINGS,
    SPS,
)
from tests.contract import sql_oracle, user_tables
from tests.contract.calls import call, hints, listed, record
from tests.fault import faults

PROVIDERS = (
    sql_federation.FederationProtocolModel,
    sql_federation.IdPRemoteIdsModel,
    sql_federation.IdentityProviderModel,
)
MODELS = (
    *user_tables.MODELS,
    *PROVIDERS,
    sql_federation.MappingModel,
    sql_federation.ServiceProviderModel,
)
DOMAINS = ['domain-1', 'domain-2']
IDP_IDS = ['idp-1', 'idp-2', 'idp-3']
REMOTE_IDS = ['https://one', 'https://two', 'HTTPS://ONE']
PROTOCOLS = ['saml2', 'openid']
MAPPING_IDS = ['mapping-1', 'mapping-2']
SP_IDS = ['sp-1', 'sp-2', 'sp-3']
UNIQUE_IDS = ['anna', 'bert']
#: Longer than SQL's columns are.
TOO_LONG = 'x' * 300

idp_id = st.sampled_from([*IDP_IDS, *IDP_IDS[:1] * 2])
remote_id = st.sampled_from([*REMOTE_IDS, TOO_LONG])
protocol_id = st.sampled_from([*PROTOCOLS, PROTOCOLS[0]])
mapping_id = st.sampled_from(MAPPING_IDS)
sp_id = st.sampled_from(SP_IDS)
unique_id = st.sampled_from(UNIQUE_IDS)
enabled = st.sampled_from([True, True, False])
description = st.sampled_from([None, '', 'Here', 'there'])
url = st.sampled_from(['https://sp', ''] * 3 + [TOO_LONG])
idp = {
    'domain_id': st.sampled_from(DOMAINS),
    'enabled': enabled,
    'description': description,
    'remote_ids': st.none() | st.lists(remote_id, max_size=2),
    'authorization_ttl': st.sampled_from([None, 0, 10, 10.0]),
}
protocol = {
    'mapping_id': mapping_id,
    'remote_id_attribute': st.sampled_from([None, 'REMOTE', TOO_LONG]),
}
mapping = {
    'rules': st.sampled_from(
        [[], [{'local': [{'user': {'name': 'ä'}}], 'remote': []}]]
    ),
    'schema_version': st.sampled_from(['1.0', '2.0', TOO_LONG]),
}
sp = {
    'enabled': enabled,
    'description': description,
    'auth_url': url,
    'sp_url': url,
    'relay_state_prefix': st.sampled_from(['ss:mem:', '']),
}
new_idp = record(idp, 'domain_id', 'enabled')
new_sp = record(sp, 'enabled', 'auth_url', 'sp_url', 'relay_state_prefix')
calls = st.one_of(
    *[call('create_idp', idp_id, new_idp)] * 3,
    *[call('update_idp', idp_id, record(idp))] * 4,
    call('get_idp', idp_id),
    call('delete_idp', idp_id),
    *[call('get_idp_from_remote_id', remote_id)] * 2,
    call(
        'list_idps',
        hints(
            ('id', IDP_IDS[0], 'equals'),
            ('id', IDP_IDS[0].upper(), 'equals'),
            ('id', 'x' * 65, 'equals'),
            ('enabled', 'true', 'equals'),
            ('enabled', False, 'equals'),
            ('domain_id', DOMAINS[0], 'equals'),
            ('description', 'HE', 'contains'),
        ),
    ),
    *[
        call(
            'create_protocol', idp_id, protocol_id, record(protocol, *protocol)
        )
    ]
    * 3,
    call('update_protocol', idp_id, protocol_id, record(protocol)),
    call('get_protocol', idp_id, protocol_id),
    call('delete_protocol', idp_id, protocol_id),
    call('list_protocols', idp_id),
    *[call('create_mapping', mapping_id, record(mapping, *mapping))] * 2,
    call('update_mapping', mapping_id, record(mapping)),
    call('get_mapping', mapping_id),
    call('delete_mapping', mapping_id),
    call('list_mappings'),
    call('get_mapping_from_idp_and_protocol', idp_id, protocol_id),
    *[call('create_sp', sp_id, new_sp)] * 2,
    call('update_sp', sp_id, record(sp)),
    call('get_sp', sp_id),
    call('delete_sp', sp_id),
    call(
        'list_sps',
        hints(
            ('id', SP_IDS[0], 'equals'),
            ('enabled', True, 'equals'),
            ('description', 'T', 'startswith'),
            ('auth_url', 'https://sp', 'equals'),
            ('nothing', 'x', 'equals'),
        ),
    ),
    call('get_enabled_service_providers'),
    *[call('log_in', idp_id, protocol_id, unique_id)] * 3,
    call('link', idp_id, protocol_id, unique_id),
    call('users'),
)
#: So that there is something to change and to log in with.
BEGINNING = [
    ('create_mapping', MAPPING_IDS[0], {'rules': [], 'schema_version': '1.0'}),
    *(
        (
            'create_idp',
            each,
            {'domain_id': DOMAINS[0], 'enabled': True, 'remote_ids': [each]},
        )
        for each in IDP_IDS[:2]
    ),
    *(
        ('create_protocol', IDP_IDS[0], each, {'mapping_id': MAPPING_IDS[0]})
        for each in PROTOCOLS
    ),
    ('log_in', IDP_IDS[0], PROTOCOLS[0], UNIQUE_IDS[0]),
    ('link', IDP_IDS[0], PROTOCOLS[1], UNIQUE_IDS[1]),
    ('users',),
]


class Drivers:
    """The driver, and those of the users who log in."""

    def __init__(self, own, shadow, users):
        self.own = own
        self._shadow = shadow
        self._users = users

    def log_in(self, idp_id, protocol_id, unique_id):
        """What Keystone does where somebody comes from a provider."""
        self.own.get_protocol(idp_id, protocol_id)
        try:
            return self._shadow.get_federated_user(
                idp_id, protocol_id, unique_id
            )
        except exception.UserNotFound:
            domain_id = self.own.get_idp(idp_id)['domain_id']
            names = _names(idp_id, protocol_id, unique_id)
            return self._shadow.create_federated_user(domain_id, names)

    def link(self, idp_id, protocol_id, unique_id):
        """Let a local user come from a provider too."""
        self.own.get_protocol(idp_id, protocol_id)
        made = {'id': 'local', 'name': 'local', 'domain_id': DOMAINS[0]}
        try:
            self._users.get_user(made['id'])
        except exception.UserNotFound:
            self._users.create_user(made['id'], made)
        self._shadow.create_federated_object(
            _names(idp_id, protocol_id, unique_id) | {'user_id': made['id']}
        )

    def empty(self):
        """Delete all that is there: sooner done than to truncate tables."""
        for each in self.own.list_idps():
            self.own.delete_idp(each['id'])
        for each in self._users.list_users(Hints()):
            self._users.delete_user(each['id'])
        for each in self.own.list_mappings():
            self.own.delete_mapping(each['id'])
        for each in self.own.list_sps():
            self.own.delete_sp(each['id'])

    def users(self):
        found = self._users.list_users(Hints())
        return {
            each['id']: sorted(
                (named['idp_id'], *sorted(p.items()))
                for named in self._shadow.get_federated_objects(each['id'])
                for p in named['protocols']
            )
            for each in found
        }


def _names(idp_id, protocol_id, unique_id):
    return {
        'idp_id': idp_id,
        'protocol_id': protocol_id,
        'unique_id': unique_id,
        'display_name': 'shown',  # of several SQL shows any
    }


@pytest.fixture
def ids():
    """What makes the ids of users who come from a provider."""
    provider_api.ProviderAPIs._clear_registry_instances()
    generator.Manager()
    yield
    provider_api.ProviderAPIs._clear_registry_instances()


@pytest.fixture
def theirs(keyspace, ids):
    with sql_oracle.sqlite(*MODELS, sql_model.Group):
        yield Drivers(
            sql_federation.Federation(),
            sql_shadow.ShadowUsers(),
            sql_identity.Identity(),
        )


@pytest.fixture
def driver(store):
    return federation.Federation()


@pytest.fixture
def ours(driver, ids):
    return Drivers(driver, shadow_users.ShadowUsers(), identity.Identity())


def play(drivers, each):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = copy.deepcopy(each)
    own = hasattr(drivers.own, name)
    method = getattr(drivers.own if own else drivers, name)
    try:
        if name in ('list_idps', 'list_sps'):
            return listed(method, *rest[0], in_order)
        said = method(*rest)
    except exception.Error as error:
        return type(error)
    if name == 'get_enabled_service_providers':
        said = [
            {name: getattr(each, name) for name in ('id', *sp)}
            for each in said
        ]
    return in_order(said) if isinstance(said, list) else said


def in_order(found):
    assert type(found) is list
    return sorted(found, key=lambda each: each['id'])


def test_sequences_give_equal_answers(ours, theirs):
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=10, max_size=35))
    def compare(sequence):
        ours.empty()
        sql_oracle.empty(*MODELS)
        for each in BEGINNING + sequence:
            expected, answer = (
                play(drivers, each) for drivers in (theirs, ours)
            )
            assert answer == expected, each
            seen.add((each[0], isinstance(expected, type) and expected))

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 20
    assert len({said for _, said in seen if said}) > 4


def make_idp(driver, **more):
    """Create an identity provider; return its id."""
    made = {'domain_id': DOMAINS[0], 'enabled': True, **more}
    return driver.create_idp(uuid.uuid4().hex, made)['id']


class TestRemoteIds:
    def test_each_finds_its_provider(self, driver):
        ids = [uuid.uuid4().hex for _ in range(3)]
        made = make_idp(driver, remote_ids=ids[:2])
        other = make_idp(driver, remote_ids=ids[2:])
        found = [driver.get_idp_from_remote_id(each) for each in ids]
        assert [each['idp_id'] for each in found] == [made, made, other]
        assert [each['remote_id'] for each in found] == ids

    def test_to_look_for_one_is_two_reads_and_one_again(self, driver, store):
        remote_id = uuid.uuid4().hex
        make_idp(driver, remote_ids=[remote_id])
        with faults.counted(store) as sent:
            for _ in range(2):
                driver.get_idp_from_remote_id(remote_id)
        claim, provider = (IDPS.claims.get,), (IDPS.entity.get,)
        assert sent == [claim, provider, provider]

    def test_they_are_compared_exactly(self, driver):
        remote_id = 'https://' + uuid.uuid4().hex
        ids = [remote_id, remote_id.upper(), remote_id + ' ']
        made = [make_idp(driver, remote_ids=[each]) for each in ids]
        found = [driver.get_idp_from_remote_id(each) for each in ids]
        assert [each['idp_id'] for each in found] == made

    def test_one_that_was_given_up_is_free(self, driver):
        remote_id = uuid.uuid4().hex
        made = make_idp(driver, remote_ids=[remote_id])
        with pytest.raises(exception.Conflict):
            make_idp(driver, remote_ids=[remote_id])
        driver.update_idp(made, {'remote_ids': None})
        with pytest.raises(exception.IdentityProviderNotFound):
            driver.get_idp_from_remote_id(remote_id)
        other = make_idp(driver, remote_ids=[remote_id])
        driver.delete_idp(other)
        driver.update_idp(made, {'remote_ids': [remote_id]})
        assert driver.get_idp_from_remote_id(remote_id)['idp_id'] == made

    def test_an_empty_one_finds_nobody(self, driver):
        """Cassandra cannot look for it, and what would it mean?"""
        made = [make_idp(driver, remote_ids=['']) for _ in range(2)]
        assert [driver.get_idp(each)['remote_ids'] for each in made] == [
            [''],
            [''],
        ]
        driver.update_idp(made[0], {'remote_ids': ['', 'x']})
        with pytest.raises(exception.IdentityProviderNotFound):
            driver.get_idp_from_remote_id('')
        for each in made:
            driver.delete_idp(each)


class TestReads:
    def test_to_get_one_or_all_is_one_read(self, driver, store):
        idp_id = make_idp(driver)
        with faults.counted(store) as sent:
            driver.get_idp(idp_id)
            driver.list_protocols(idp_id)
            driver.list_idps(Hints())
            driver.list_mappings()
            driver.list_sps(Hints())
            driver.get_enabled_service_providers()
        assert sent == [
            (IDPS.entity.get,),
            (IDPS.entity.get,),
            (IDPS.entity.get_all,),
            (MAPPINGS.get_all,),
            (SPS.get_all,),
            (SPS.get_all,),
        ]

    def test_a_log_in_costs_two(self, driver, store):
        idp_id = make_idp(driver)
        mapping_id = uuid.uuid4().hex
        driver.create_mapping(mapping_id, {'rules': []})
        driver.create_protocol(idp_id, 'saml2', {'mapping_id': mapping_id})
        with faults.counted(store) as sent:
            found = driver.get_mapping_from_idp_and_protocol(idp_id, 'saml2')
        assert found['id'] == mapping_id
        assert sent == [(IDPS.entity.get,), (MAPPINGS.get,)]
        # Keystone, too, lets a mapping go that is in use.
        driver.delete_mapping(mapping_id)
        with pytest.raises(exception.MappingNotFound):
            driver.get_mapping_from_idp_and_protocol(idp_id, 'saml2')


def test_a_mapping_without_a_version_has_the_first(driver):
    """SQL shows none where it is made, and the first from then on."""
    mapping_id = uuid.uuid4().hex
    made = driver.create_mapping(mapping_id, {'rules': []})
    assert made['schema_version'] == '1.0'
    assert driver.get_mapping(mapping_id) == made


def test_what_a_provider_asserts_of_groups_goes_with_it(ours, driver, store):
    ids = [make_idp(driver), make_idp(driver)]
    for idp_id in ids:
        driver.create_protocol(idp_id, 'saml2', {'mapping_id': 'mapping'})
        ours.link(idp_id, 'saml2', uuid.uuid4().hex)
        store.run(
            memberships.INSERT_EXPIRING,
            ttl=600,
            user_id='local',
            group_id='group',
            idp_id=idp_id,
            last_verified=clock.to_micros(clock.utcnow()),
        )
    driver.delete_protocol(ids[1], 'saml2')  # who may come by another
    driver.delete_idp(ids[0])
    left = memberships.asserted(store, 'local')
    assert [each['idp_id'] for each in left] == ids[1:]


def test_a_ttl_may_come_as_a_float(driver, theirs):
    """Keystone's JSON schema takes 10.0 for an integer."""
    for each in (driver, theirs.own):
        made = make_idp(each, authorization_ttl=10.0)
        ttl = each.get_idp(made)['authorization_ttl']
        assert (ttl, type(ttl)) == (10, int)
        each.update_idp(made, {'authorization_ttl': 20.0})
        ttl = each.get_idp(made)['authorization_ttl']
        assert (ttl, type(ttl)) == (20, int)


#: Of each kind: what comes before an entity, what it is, its columns that
#: SQL needs, and those that a change of it may name.
NEEDED = {
    'idp': (
        [],
        {'domain_id': DOMAINS[0], 'enabled': True},
        ['domain_id', 'enabled'],
        ['enabled'],
    ),
    'protocol': (
        ['of'],
        {'mapping_id': MAPPING_IDS[0]},
        ['mapping_id'],
        ['mapping_id'],
    ),
    'sp': (
        [],
        {
            'enabled': True,
            'auth_url': 'https://a',
            'sp_url': 'https://b',
            'relay_state_prefix': 'c',
        },
        ['enabled', 'auth_url', 'sp_url', 'relay_state_prefix'],
        ['enabled', 'auth_url', 'sp_url', 'relay_state_prefix'],
    ),
}


@pytest.mark.parametrize('kind', NEEDED)
def test_what_sql_needs_is_needed(driver, theirs, kind):
    """Without it log-ins would fail later."""
    above, whole, needed, changed = NEEDED[kind]
    refused = (exception.UnexpectedError, db_exception.DBError)
    for federation_driver in (driver, theirs.own):
        create, update, get = (
            getattr(federation_driver, f'{verb}_{kind}')
            for verb in ('create', 'update', 'get')
        )
        path = [make_idp(federation_driver) for _ in above]
        made = create(*path, 'there', dict(whole))
        for name in needed:
            rest = {each: whole[each] for each in whole if each != name}
            for lacking in (rest, rest | {name: None}):
                with pytest.raises(refused):
                    create(*path, 'other', dict(lacking))
                with pytest.raises(exception.NotFound):
                    get(*path, 'other')
        for name in changed:
            with pytest.raises(refused):
                update(*path, 'there', {name: None})
            with pytest.raises(exception.NotFound):
                update(*path, 'other', {name: None})
        assert get(*path, 'there') == made
    if kind == 'idp':
        # What cannot change is not looked at.
        for federation_driver in (driver, theirs.own):
            federation_driver.update_idp('there', {'domain_id': None})
