# SPDX-License-Identifier: Apache-2.0
"""Identity providers under crashes, lost replies and races."""

import datetime
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.identity import (
    federation,
    identities,
    shadow_users,
    users,
)
from keystone_cassandra_token.drivers.identity.federation import (
    IDPS,
    MAPPINGS,
    SPS,
)
from keystone_cassandra_token.tables import unique
from tests.contract.damage import Maker
from tests.fault import faults
from tests.fault.generated import (
    DONE,
    Generated,
    World,
    found,
    ghosts,
    operation,
    told,
    wrong_names,
)

CREATORS = 8
CLAIMS = IDPS.claims


@pytest.fixture
def driver(store):
    return federation.Federation()


@pytest.fixture
def impatient(monkeypatch):
    """Let a claim of a process that died be taken over at once."""
    monkeypatch.setattr(unique, 'STALE_AFTER', datetime.timedelta(0))


def fresh():
    return uuid.uuid4().hex


def new(**more):
    return {
        'id': fresh(),
        'domain_id': 'domain',
        'enabled': True,
        'description': None,
        'remote_ids': sorted([fresh(), fresh()]),
        'authorization_ttl': None,
        **more,
    }


def create(driver, made):
    driver.create_idp(made['id'], made)


def make(driver, **more):
    made = new(**more)
    create(driver, made)
    return made


def finds(driver, remote_id):
    """Return the id of the provider that a remote id finds, or None."""
    try:
        return driver.get_idp_from_remote_id(remote_id)['idp_id']
    except exception.IdentityProviderNotFound:
        return None


def looked_for(driver, made):
    """Return a provider, looked for in all ways in which it is asked for."""
    listed = [each for each in driver.list_idps() if each['id'] == made['id']]
    try:
        shown = driver.get_idp(made['id'])
    except exception.IdentityProviderNotFound:
        shown = None
    assert listed == ([shown] if shown else [])
    for each in made['remote_ids']:
        mine = shown is not None and each in shown['remote_ids']
        assert (finds(driver, each) == made['id']) is mine
    return shown


def check_gone(driver, store, *several):
    """Check that nothing is left of providers: their remote ids are free."""
    for made in several:
        assert looked_for(driver, made) is None
        for each in made['remote_ids']:
            assert CLAIMS.settled(store, remote_id=each) is None


def check_held(driver, store, made):
    """Check that a provider is there, and has its remote ids for good."""
    assert looked_for(driver, made) == made
    for each in made['remote_ids']:
        claim = CLAIMS.settled(store, remote_id=each)
        assert claim['owner'] == made['id']


def new_protocol(driver, idp_id, protocol_id='saml2'):
    driver.create_protocol(idp_id, protocol_id, {'mapping_id': 'mapping'})


def comes_from(idp_id, protocol_id='saml2'):
    """Make a user who has no name but what a provider calls it."""
    names = {'idp_id': idp_id, 'protocol_id': protocol_id}
    made = {'id': fresh(), 'unique_id': fresh(), **names}
    Maker().federated_user(**made)
    return made


def is_known(store, made):
    """Return whether a user is known by a name that a provider gave it."""
    name = {each: made[each] for each in identities.FEDERATED}
    user = users.USERS.entity.find(store, made['id'])
    known = user is not None and any(
        name.items() <= each.items() for each in identities.of(user)
    )
    claim = users.FEDERATED_NAMES.claims.settled(store, **name)
    # That of who died can be taken over.
    assert not known or claim['owner'] == made['id']
    return known


LABELS = ('first', 'second', 'third')
REMOTE = ('one', 'two', 'three')


class Providers(World):
    """A provider with two remote ids, a protocol and a user; another one."""

    kinds = ('identity_provider', 'user')

    def __init__(self, store):
        super().__init__(store)
        self.driver = federation.Federation()
        self.shadows = shadow_users.ShadowUsers()
        self.create('first', 'one', 'two')
        self.create('other', 'four')
        new_protocol(self.driver, self.id('first'))
        self.come('user')

    def create(self, label, *remote):
        create(
            self.driver,
            new(
                id=self.id(label),
                remote_ids=[self.id(f'remote {each}') for each in remote],
            ),
        )

    def come(self, label):
        """Let a user come whom the provider knows."""
        Maker().federated_user(
            id=self.id(label),
            idp_id=self.id('first'),
            protocol_id='saml2',
            unique_id=self.id(f'unique {label}'),
        )

    def update(self, *remote):
        self.driver.update_idp(
            self.id('first'),
            {'remote_ids': [self.id(f'remote {each}') for each in remote]},
        )

    @operation(exception.Conflict)
    def create_again(self):
        self.create('first', 'three')

    @operation(exception.Conflict, makes='second')
    def create_three(self):
        self.create('second', 'three')

    @operation(exception.Conflict, makes='third')
    def another_creates_three(self):
        self.create('third', 'three')

    @operation(exception.Conflict, makes='second')
    def create_two(self):
        self.create('second', 'two')

    @operation()
    def give_up_two(self):
        self.update('one', 'three')

    @operation()
    def keep_both(self):
        self.update('one', 'two')

    @operation()
    def want_fourth(self):
        self.update('one', 'four')

    @operation()
    def describe(self):
        self.driver.update_idp(self.id('first'), {'description': 'new'})

    @operation(exception.IdentityProviderNotFound, partly=['knows user'])
    def delete(self):
        self.driver.delete_idp(self.id('first'))

    @operation(exception.Conflict)
    def add_protocol(self):
        new_protocol(self.driver, self.id('first'), 'oidc')

    @operation()
    def change_protocol(self):
        self.driver.update_protocol(
            self.id('first'), 'saml2', {'mapping_id': 'new'}
        )

    @operation(exception.FederatedProtocolNotFound, partly=['knows user'])
    def delete_protocol(self):
        self.driver.delete_protocol(self.id('first'), 'saml2')

    def state(self):
        seen = {}
        listed = {each['id']: each for each in self.driver.list_idps()}
        for label in LABELS:
            one = found(self.driver.get_idp, self.id(label))
            assert one == listed.get(self.id(label))
            seen[label] = one and (
                self.labels(one['remote_ids']),
                one['description'],
            )
        for each in REMOTE:
            idp_id = finds(self.driver, self.id(f'remote {each}'))
            seen[each] = idp_id and self.labels([idp_id])
        protocols = found(self.driver.list_protocols, self.id('first'))
        seen['protocols'] = {
            each['id']: each['mapping_id'] for each in protocols or ()
        }
        name = (self.id('first'), 'saml2', self.id('unique user'))
        user = found(self.shadows.get_federated_user, *name)
        seen['knows user'] = user is not None
        return seen

    def wrong(self):
        keys = {
            each: {'remote_id': self.id(f'remote {each}')} for each in REMOTE
        }
        return wrong_names(self, IDPS.entity, IDPS, keys, LABELS)

    def left(self):
        return ghosts(self, IDPS.entity, LABELS)

    def probe(self):
        """What nobody has can be had, and what is had cannot."""
        wrong = []
        for each in REMOTE:
            has = finds(self.driver, self.id(f'remote {each}'))
            said = told(self.create, 'probe', each)
            if said == DONE:
                self.driver.delete_idp(self.id('probe'))
            if (said == DONE) is bool(has):
                wrong.append(f'{said} to who wants {each}')
        return wrong


class TestProviders(Generated):
    world = Providers


class MappingsAndProviders(World):
    """A mapping and a service provider: one row each."""

    ages = ()

    def __init__(self, store):
        super().__init__(store)
        self.driver = federation.Federation()
        self.create_mapping('first')
        self.create_sp('first')

    def create_mapping(self, label):
        self.driver.create_mapping(self.id(label), {'rules': []})

    def create_sp(self, label):
        urls = ('auth_url', 'sp_url', 'relay_state_prefix')
        self.driver.create_sp(
            self.id(label),
            {'enabled': True} | dict.fromkeys(urls, 'https://one'),
        )

    @operation(exception.Conflict)
    def make_mapping(self):
        self.create_mapping('second')

    @operation()
    def change_mapping(self):
        self.driver.update_mapping(
            self.id('first'), {'rules': [{'local': []}]}
        )

    @operation(exception.MappingNotFound)
    def delete_mapping(self):
        self.driver.delete_mapping(self.id('first'))

    @operation(exception.Conflict)
    def make_sp(self):
        self.create_sp('second')

    @operation()
    def change_sp(self):
        self.driver.update_sp(self.id('first'), {'auth_url': 'https://other'})

    @operation(exception.ServiceProviderNotFound)
    def delete_sp(self):
        self.driver.delete_sp(self.id('first'))

    def state(self):
        seen = {}
        for label in ('first', 'second'):
            one = found(self.driver.get_mapping, self.id(label))
            seen[f'mapping {label}'] = one and one['rules']
            one = found(self.driver.get_sp, self.id(label))
            seen[f'sp {label}'] = one and one['auth_url']
        return seen

    def left(self):
        labels = ('first', 'second')
        return ghosts(self, MAPPINGS, labels) + ghosts(self, SPS, labels)


class TestMappingsAndProviders(Generated):
    world = MappingsAndProviders


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    @pytest.mark.parametrize('what', ['idp', 'protocol'])
    def test_who_has_come_before_a_crash_goes_with_the_next_call(
        self, driver, store, what
    ):
        """Who came while it was deleted, which the crash broke off then."""
        made = make(driver)
        if what == 'idp':
            driver.delete_idp(made['id'])
        late = comes_from(made['id'])
        call, rest = {
            'idp': (driver.delete_idp, ()),
            'protocol': (driver.delete_protocol, ('saml2',)),
        }[what]
        with pytest.raises(exception.NotFound):
            call(made['id'], *rest)
        assert not is_known(store, late)
        assert users.USERS.entity.find(store, late['id']) is None


def all_at_once(calls):
    """Make calls in a thread each; return those that came to their end.

    The others were refused with a conflict, but for some whose outcome
    Cassandra could not tell.
    """
    start = threading.Barrier(len(calls))
    done, refused = [], []

    def run(call):
        start.wait(faults.PATIENCE)
        try:
            call()
            done.append(call)
        except exception.Conflict:
            refused.append(call)
        except errors.StoreUnavailable:
            pass  # unknown

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(faults.PATIENCE)
        assert not thread.is_alive()
    assert len(refused) >= len(calls) // 2
    return [calls.index(call) for call in done]


class TestCreators:
    @pytest.mark.parametrize('same', ['id', 'remote id', 'both'])
    def test_one_of_eight_wins(self, driver, store, same):
        shared = new()
        several = [
            new(
                id=fresh() if same == 'remote id' else shared['id'],
                remote_ids=sorted(
                    [fresh()]
                    + (shared['remote_ids'][:1] if same != 'id' else [])
                ),
                description=str(number),
            )
            for number in range(CREATORS)
        ]
        won = all_at_once(
            [lambda made=made: create(driver, made) for made in several]
        )
        assert len(won) <= 1
        wanted = {each['id'] for each in several}
        listed = [each for each in driver.list_idps() if each['id'] in wanted]
        # And no orphan stays: all that the losers wrote is gone.
        assert listed == [several[number] for number in won]
        for number in won:
            check_held(driver, store, several[number])
            driver.delete_idp(several[number]['id'])
        for made in several:
            assert looked_for(driver, made) is None


class TestRaces:
    @pytest.mark.parametrize('again', [False, True])
    def test_its_provider_is_deleted_while_a_protocol_comes(
        self, driver, store, again
    ):
        made = make(driver)
        with faults.stalled(
            store,
            IDPS.entity.update,
            lambda: new_protocol(driver, made['id']),
        ) as late:
            driver.delete_idp(made['id'])
            if again:
                create(driver, made)
        if again:
            # To the one that is there now it is added.
            assert len(driver.list_protocols(made['id'])) == 1
        else:
            assert type(late.said) is exception.IdentityProviderNotFound
            check_gone(driver, store, made)

    def test_who_is_given_another_name_meanwhile_keeps_that(
        self, driver, store
    ):
        made, other = make(driver), make(driver)
        comes = comes_from(made['id'])
        known = comes | {'idp_id': other['id']}
        link = {name: known[name] for name in identities.FEDERATED}
        with faults.stalled(
            store,
            users.USERS.entity.bury,
            lambda: driver.delete_idp(made['id']),
        ) as late:
            shadow_users.ShadowUsers().create_federated_object(
                {**link, 'user_id': known['id'], 'display_name': 'shown'}
            )
        assert late.said is None
        assert is_known(store, known)
        assert not is_known(store, comes)


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides(driver, store, seconds):
    made = make(driver)
    with faults.clock_off_by(store, seconds):
        driver.delete_idp(made['id'])
    check_gone(driver, store, made)
    create(driver, made)
    check_held(driver, store, made)
