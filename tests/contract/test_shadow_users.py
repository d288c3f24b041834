# SPDX-License-Identifier: Apache-2.0
"""Shadow users: equal answers as Keystone's SQL driver gives."""

import uuid
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keystone import exception, federation, notifications
from keystone.common import provider_api
from keystone.common.driver_hints import Hints
from keystone.federation.backends import sql as sql_federation
from keystone.identity import generator
from keystone.identity.backends import sql as sql_identity
from keystone.identity.backends import sql_model
from keystone.identity.shadow_backends import sql as sql_shadow
from oslo_utils import fixture as time_fixture

from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import shadow_users
from tests.contract import emptying, sql_oracle
from tests.contract.user_tables import MODELS, TABLES
from tests.fault import faults

#: That are made once: SQL's foreign keys want them.
FIXED = (
    sql_model.Group,
    sql_federation.FederationProtocolModel,
    sql_federation.IdPRemoteIdsModel,
    sql_federation.IdentityProviderModel,
)
DOMAINS = ['domain-1', 'domain-2']
#: Identity providers, and for how many minutes their word is taken.
PROVIDERS = {'idp-1': 10, 'idp-2': None}
DEFAULT_MINUTES = 5
PROTOCOLS = ['saml2', 'openid']
UNIQUE_IDS = ['anna', 'bert']
NAMES = ['anna', 'bert', 'carl']
GROUPS = ['group-1', 'group-2']
DAYS = 90  # without activity, then a user counts as disabled


def computed(domain_id, unique_id):
    """Return the id of a federated user, as Keystone computes it."""
    ids = provider_api.ProviderAPIs.id_generator_api
    return ids.generate_public_ID(
        {
            'domain_id': domain_id,
            'local_id': unique_id,
            'entity_type': 'user',
        }
    )


# Users of other kinds; an id of a federated one is computed when it is used.
OTHERS = ['user-1', 'user-2']
user = st.sampled_from(
    [
        *OTHERS,
        *((domain, name) for domain in DOMAINS for name in UNIQUE_IDS),
        # More often, so that more happens to one.
        *[(DOMAINS[0], UNIQUE_IDS[0])] * 4,
    ]
)
domain = st.sampled_from(DOMAINS)
provider = st.sampled_from([*PROVIDERS, 'idp-1'])
protocol = st.sampled_from([*PROTOCOLS, 'saml2'])
unique_id = st.sampled_from(UNIQUE_IDS)
name = st.sampled_from(NAMES)
group = st.sampled_from(GROUPS)
federated = st.fixed_dictionaries(
    {
        'idp_id': provider,
        'protocol_id': protocol,
        'unique_id': unique_id,
        'display_name': name,
    }
)
local = st.fixed_dictionaries(
    {'name': name, 'domain_id': domain},
    optional={'enabled': st.booleans(), 'password': st.just(None)},
)
nonlocal_user = st.fixed_dictionaries(
    {'id': st.sampled_from(OTHERS), 'name': name, 'domain_id': domain},
    optional={
        'enabled': st.booleans(),
        'password': st.just('dropped'),
        'email': st.just('x@example.org'),
    },
)
# With a name always: without one SQL's driver makes a local user of others.
changes = st.fixed_dictionaries(
    {'name': name},
    optional={'enabled': st.booleans(), 'email': st.just('y@example.org')},
)
limits = st.sampled_from([None, None, 1, 2, 10])


def filters(*values):
    return st.lists(
        st.sampled_from(values), max_size=2, unique_by=lambda entry: entry[0]
    )


of_identities = filters(
    ('idp_id', 'idp-1', 'equals'),
    ('protocol_id', 'saml2', 'equals'),
    ('unique_id', 'N', 'contains'),
    ('display_name', 'c', 'startswith'),
    ('display_name', 'anna', 'equals'),
    ('email', 'x@example.org', 'equals'),
)
of_federated = filters(
    ('idp_id', 'idp-1', 'equals'),
    ('protocol_id', 'saml2', 'equals'),
    ('unique_id', 'anna', 'equals'),
    ('name', 'carl', 'equals'),
    ('domain_id', 'domain-1', 'equals'),
    ('enabled', True, 'equals'),
)
of_users = filters(
    ('name', 'anna', 'equals'),
    ('domain_id', 'domain-1', 'equals'),
    ('enabled', True, 'equals'),
)

SHADOW_CALLS = (
    *[
        st.tuples(
            st.just('create_federated_user'),
            domain,
            federated,
            st.sampled_from([None, 'x@example.org']),
        )
    ]
    * 4,
    *[st.tuples(st.just('create_federated_object'), user, federated)] * 2,
    st.tuples(st.just('delete_federated_object'), user),
    st.tuples(st.just('get_federated_objects'), user),
    st.tuples(st.just('get_federated_user'), provider, protocol, unique_id),
    st.tuples(
        st.just('update_federated_user_display_name'),
        provider,
        protocol,
        unique_id,
        name,
    ),
    st.tuples(st.just('get_user'), user),
    *[st.tuples(st.just('create_nonlocal_user'), nonlocal_user)] * 2,
    st.tuples(st.just('set_last_active_at'), user),
    st.tuples(st.just('list_federated_users_info'), of_identities, limits),
    # Without a limit, to which SQL counts a user once for each identity.
    st.tuples(st.just('get_federated_users'), of_federated, st.none()),
    *[st.tuples(st.just('add_user_to_group_expires'), user, group)] * 3,
    st.tuples(
        st.just('cleanup_stale_group_memberships'),
        user,
        provider,
        st.lists(group, max_size=2, unique=True),
    ),
    st.tuples(st.just('delete_user'), user),
)
IDENTITY_CALLS = (
    st.tuples(st.just('create_user'), st.sampled_from(OTHERS), local),
    st.tuples(st.just('update_user'), user, changes),
    st.tuples(st.just('get_user'), user),
    st.tuples(st.just('delete_user'), user),
    st.tuples(st.just('list_users'), of_users, limits),
    st.tuples(st.just('add_user_to_group'), user, group),
    st.tuples(st.just('remove_user_from_group'), user, group),
    st.tuples(st.just('check_user_in_group'), user, group),
    *[st.tuples(st.just('list_groups_for_user'), user)] * 2,
    st.tuples(st.just('list_users_in_group'), group),
)
OTHER_CALLS = (
    st.tuples(st.just('wait'), st.sampled_from([60, 301, 601, 86400 * DAYS])),
    st.tuples(st.just('allow'), provider, st.sampled_from([None, 1, 60])),
)
calls = st.one_of(
    *(
        st.tuples(st.just(kind), each)
        for kind, several in (
            ('shadow', SHADOW_CALLS),
            ('identity', IDENTITY_CALLS),
            ('other', OTHER_CALLS),
        )
        for each in several
    )
)


class Drivers:
    """The two drivers that share the users."""

    def __init__(self, shadow, own):
        self.shadow = shadow
        self.identity = own

    def add_groups(self):
        for group_id in GROUPS:
            made = {'id': group_id, 'name': group_id, 'domain_id': DOMAINS[0]}
            self.identity.create_group(group_id, made)


@pytest.fixture
def options(conf):
    made = {
        ('federation', 'default_authorization_ttl'): DEFAULT_MINUTES,
        ('security_compliance', 'disable_user_account_days_inactive'): DAYS,
    }
    for (section, option), value in made.items():
        conf.set_override(option, value, section)
    yield
    for section, option in made:
        conf.clear_override(option, section)


@pytest.fixture
def theirs(keyspace):
    with sql_oracle.sqlite(*MODELS, *FIXED):
        yield Drivers(sql_shadow.ShadowUsers(), sql_identity.Identity())


@pytest.fixture
def ours(store):
    return Drivers(shadow_users.ShadowUsers(), identity.Identity())


@pytest.fixture
def managers(theirs):
    """What both drivers ask of other parts of Keystone: ids, providers."""
    provider_api.ProviderAPIs._clear_registry_instances()
    generator.Manager()
    providers = federation.Manager().driver
    for idp_id, minutes in PROVIDERS.items():
        providers.create_idp(
            idp_id,
            {
                'id': idp_id,
                'domain_id': DOMAINS[0],
                'enabled': True,
                'authorization_ttl': minutes,
            },
        )
        for protocol_id in PROTOCOLS:
            providers.create_protocol(
                idp_id, protocol_id, {'id': protocol_id, 'mapping_id': 'm'}
            )
    yield providers
    provider_api.ProviderAPIs._clear_registry_instances()
    notifications.clear_subscribers()


def play(drivers, kind, call):
    """Make one call; return what it said, or the exception's class."""
    name, *rest = call
    # A federated user is told by what its id is computed from.
    rest = [computed(*a) if isinstance(a, tuple) else a for a in rest]
    method = getattr(getattr(drivers, kind), name)
    if name == 'update_user' and several(drivers, rest[0]):
        return 'SQL would rename any of them'
    try:
        said = METHODS.get(name, plain)(method, *rest)
        return without_chance(drivers, said)
    except exception.UnexpectedError:
        # SQL's foreign key, where the user is not there.
        assert name == 'create_federated_object'
        return exception.UserNotFound
    except exception.Error as error:
        return type(error)


def several(drivers, user_id):
    """Return whether a user has more than one federated identity."""
    found = drivers.shadow.get_federated_objects(user_id)
    return sum(len(each['protocols']) for each in found) > 1


def without_chance(drivers, said):
    """Return an answer without what SQL leaves to chance.

    Of several identities it shows the name of any.
    """
    if isinstance(said, tuple | list):
        return [without_chance(drivers, each) for each in said]
    if isinstance(said, dict) and 'options' in said:
        return said | ({'name': ''} if several(drivers, said['id']) else {})
    return said


def plain(method, *arguments):
    return method(*arguments)


def create_user(method, user_id, made):
    return method(user_id, made | {'id': user_id})


def create_federated_object(method, user_id, made):
    return method(made | {'user_id': user_id})


def by_provider(method, user_id):
    """Return the identities, of which SQL promises no order."""
    found = [
        (each['idp_id'], sorted(p.items()))
        for each in method(user_id)
        for p in each['protocols']
    ]
    return sorted(found)


def removed(method, user_id, idp_id, kept):
    return sorted(method(user_id, idp_id, kept))


def listed(method, *arguments):
    """List with hints; return what was found and what became of them."""
    hints = Hints()
    *before, wanted, limit = arguments
    for name, value, comparator in wanted:
        hints.add_filter(name, value, comparator)
    if limit:
        hints.set_limit(limit)
    found = [dict(each) for each in method(*before, hints)]
    left = [entry['name'] for entry in hints.filters]
    truncated = bool(hints.limit and hints.limit['truncated'])
    if truncated:
        # Which ones are left out is anybody's choice.
        return len(found), left, truncated
    found = sorted(map(without_number, found), key=by_attributes)
    return found, left, truncated


def by_attributes(found):
    return str(sorted({**found, 'name': ''}.items()))


def without_number(found):
    """Return a federated identity without the number that SQL gives it."""
    if isinstance(found.get('id'), int):
        return {key: found[key] for key in found if key != 'id'}
    return found


def listed_plainly(method, some_id):
    return listed(method, some_id, [], None)


METHODS = {
    'create_user': create_user,
    'create_federated_object': create_federated_object,
    'get_federated_objects': by_provider,
    'cleanup_stale_group_memberships': removed,
    'list_users': listed,
    'list_federated_users_info': listed,
    'get_federated_users': listed,
    'list_groups_for_user': listed_plainly,
    'list_users_in_group': listed_plainly,
}


@pytest.mark.usefixtures('options')
def test_sequences_give_equal_answers(ours, theirs, managers, store, keyspace):
    emptying.truncate(store, keyspace, 'group', 'group_by_domain')
    emptying.truncate(store, keyspace, 'group_claim')
    for each in (ours, theirs):
        each.add_groups()
    seen = set()

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls, min_size=12, max_size=30))
    def compare(sequence):
        emptying.truncate(store, keyspace, *TABLES)
        sql_oracle.empty(*MODELS)
        for idp_id, minutes in PROVIDERS.items():
            managers.update_idp(idp_id, {'authorization_ttl': minutes})
        with time_fixture.TimeFixture() as time:
            for kind, call in sequence:
                if call[0] == 'wait':
                    time.advance_time_seconds(call[1])
                    continue
                if call[0] == 'allow':
                    managers.update_idp(
                        call[1], {'authorization_ttl': call[2]}
                    )
                    continue
                expected, answer = (
                    play(each, kind, call) for each in (theirs, ours)
                )
                assert answer == expected, call
                seen.add(
                    (call[0], expected if isinstance(expected, type) else 0)
                )

    compare()
    # Chance decides what happens; most of this does, in any run.
    assert len({name for name, _ in seen}) > 15
    assert len([said for _, said in seen if said]) > 5


def test_a_name_that_is_too_long_for_sql_is_too_long_here(ours, theirs):
    user_id = uuid.uuid4().hex
    made = {'id': user_id, 'domain_id': DOMAINS[0], 'name': 'x' * 256}
    for drivers in (ours, theirs):
        with pytest.raises(exception.StringLengthExceeded):
            drivers.shadow.create_nonlocal_user(dict(made))
        with pytest.raises(exception.UserNotFound):
            drivers.shadow.get_user(user_id)


class TestFederatedUsers:
    """Keystone asks for them with each list of users by name."""

    @pytest.fixture
    def made(self, ours, managers):
        """Five users of one provider, and one of another."""
        names = [uuid.uuid4().hex for _ in range(6)]
        return [
            ours.shadow.create_federated_user(
                DOMAINS[0],
                {
                    'idp_id': list(PROVIDERS)[number == 5],
                    'protocol_id': 'saml2',
                    'unique_id': name,
                    'display_name': name,
                },
            )
            for number, name in enumerate(names)
        ]

    @staticmethod
    def found(driver, **wanted):
        hints = Hints()
        for name, value in wanted.items():
            hints.add_filter(name, value)
        return {each['id'] for each in driver.get_federated_users(hints)}

    def test_by_provider_only_its_own_are_read(self, ours, made, store):
        first, second = list(PROVIDERS)[:2]
        with faults.counted(store) as sent:
            found = self.found(ours.shadow, idp_id=first)
        assert shadow_users.LIST not in {s for each in sent for s in each}
        wanted = {each['id'] for each in made}
        assert found & wanted == {each['id'] for each in made[:5]}
        found = self.found(ours.shadow, idp_id=second, name=made[5]['name'])
        assert found == {made[5]['id']}
        found = self.found(ours.shadow, idp_id=second, name=made[0]['name'])
        assert found == set()
        assert self.found(ours.shadow, idp_id='') == set()

    @pytest.mark.parametrize('change', ['none', 'shown', 'deleted'])
    def test_by_name_only_who_has_it_is_read(self, ours, made, store, change):
        user, name = made[3], made[3]['name']
        if change == 'shown':
            key = next(iter(PROVIDERS)), 'saml2', name
            name = uuid.uuid4().hex
            ours.shadow.update_federated_user_display_name(*key, name)
            assert self.found(ours.shadow, name=user['name']) == set()
        if change == 'deleted':
            ours.shadow.delete_user(user['id'])
        with faults.counted(store) as sent:
            found = self.found(ours.shadow, name=name)
        assert found == ({user['id']} if change != 'deleted' else set())
        assert shadow_users.LIST not in {s for each in sent for s in each}

    def test_no_more_are_held_than_are_found(
        self, ours, made, store, monkeypatch
    ):
        class Read(dict):
            """What was read, whose life can be watched."""

        held = []
        read = []
        iterate = store.iterate

        def watched(*arguments):
            for row in map(Read, iterate(*arguments)):
                read.append(weakref.ref(row))
                held.append(sum(each() is not None for each in read))
                yield row

        monkeypatch.setattr(store, 'iterate', watched)
        found = self.found(ours.shadow, unique_id=made[3]['name'])
        assert found == {made[3]['id']}
        assert len(read) >= len(made)
        assert max(held) <= 3


def test_a_display_name_that_was_missing(ours, managers):
    made = {'idp_id': 'idp-1', 'protocol_id': 'saml2', 'unique_id': 'nameless'}
    ours.shadow.create_federated_user(DOMAINS[0], made)
    ours.shadow.update_federated_user_display_name(*made.values(), 'anna')
    assert ours.shadow.get_federated_user(*made.values())['name'] == 'anna'
