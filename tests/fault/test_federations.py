# SPDX-License-Identifier: Apache-2.0
"""Identity providers under crashes, lost replies and races."""

import contextlib
import datetime
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.identity import (
    federation,
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


def found(driver, made):
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
        assert found(driver, made) is None
        for each in made['remote_ids']:
            assert CLAIMS.settled(store, remote_id=each) is None


def check_held(driver, store, made):
    """Check that a provider is there, and has its remote ids for good."""
    assert found(driver, made) == made
    for each in made['remote_ids']:
        claim = CLAIMS.settled(store, remote_id=each)
        assert (claim['owner'], claim['state']) == (made['id'], 'held')


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
    name = {each: made[each] for each in users.FEDERATED}
    user = users.USERS.entity.find(store, made['id'])
    known = user is not None and any(
        name.items() <= each.items() for each in user['federated']
    )
    claim = users.FEDERATED_NAMES.settled(store, **name)
    if known:
        assert claim['owner'] == made['id']
    else:
        # That of who died can be taken over.
        assert claim is None or claim['state'] == 'pending'
    return known


@pytest.mark.usefixtures('impatient')
class TestCrashes:
    def test_create(self, driver, store):
        outcomes = []
        for _, made in faults.each_crash(
            store, new, lambda made: create(driver, made)
        ):
            outcomes.append(found(driver, made) == made)
            other = made | {'id': fresh()}
            if outcomes[-1]:
                for each in (made, other):
                    with pytest.raises(exception.Conflict):
                        create(driver, each)
            else:
                assert found(driver, made) is None
                create(driver, other)
                driver.delete_idp(other['id'])
                create(driver, made)
                check_held(driver, store, made)
            driver.delete_idp(made['id'])
            check_gone(driver, store, made, other)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    def test_create_again_with_other_remote_ids(self, driver, store):
        """What the first attempt has left keeps nobody from its names."""
        for _, made in faults.each_crash(
            store, new, lambda made: create(driver, made)
        ):
            if found(driver, made) is None:
                other = make(driver, id=made['id'])
                third = make(driver, remote_ids=made['remote_ids'])
                check_held(driver, store, other)
                check_held(driver, store, third)
                driver.delete_idp(third['id'])
            driver.delete_idp(made['id'])
            check_gone(driver, store, made)

    def test_update(self, driver, store):
        def prepare():
            made = make(driver)
            changed = sorted([made['remote_ids'][0], fresh()])
            return made, {'remote_ids': changed, 'description': 'new'}

        outcomes = []
        for _, (made, changes) in faults.each_crash(
            store,
            prepare,
            lambda each: driver.update_idp(each[0]['id'], each[1]),
        ):
            after = made | changes
            assert found(driver, made) == found(driver, after)
            assert found(driver, made) in (made, after)
            outcomes.append(found(driver, made) == after)
            # Nobody else gets what it has; a retry succeeds.
            for each in found(driver, made)['remote_ids']:
                with pytest.raises(exception.Conflict):
                    make(driver, remote_ids=[each])
            driver.update_idp(made['id'], changes)
            assert found(driver, after) == after
            given_up = made['remote_ids'][1]
            other = make(driver, remote_ids=[given_up])
            for each in (made, other):
                driver.delete_idp(each['id'])
            check_gone(driver, store, made, after, other)
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)

    @pytest.mark.parametrize('what', ['idp', 'protocol'])
    def test_delete(self, driver, store, what):
        def prepare():
            made = make(driver)
            other = make(driver)
            for each in (made, other):
                new_protocol(driver, each['id'])
            come = [comes_from(made['id']) for _ in range(2)]
            # One has another name besides.
            known = come[0] | {'idp_id': other['id']}
            link = {name: known[name] for name in users.FEDERATED}
            shadow_users.ShadowUsers().create_federated_object(
                {**link, 'user_id': known['id'], 'display_name': 'shown'}
            )
            return made, come, known

        def delete(prepared):
            made, *_ = prepared
            if what == 'idp':
                driver.delete_idp(made['id'])
            else:
                driver.delete_protocol(made['id'], 'saml2')

        outcomes = []
        for _, prepared in faults.each_crash(store, prepare, delete):
            made, come, known = prepared
            if what == 'idp':
                outcomes.append(found(driver, made) is not None)
            else:
                outcomes.append(bool(driver.list_protocols(made['id'])))
            if not outcomes[-1]:
                # Nobody outlives it: users go first.
                assert not any(is_known(store, each) for each in come)
            # The same call again deletes what is left of it.
            with contextlib.suppress(exception.NotFound):
                delete(prepared)
            assert not any(is_known(store, each) for each in come)
            assert is_known(store, known)
            assert users.USERS.entity.find(store, come[1]['id']) is None
            if what == 'idp':
                assert found(driver, made) is None
                create(driver, made)
                check_held(driver, store, made)
            assert driver.list_protocols(made['id']) == []
            driver.delete_idp(made['id'])
            check_gone(driver, store, made)
        assert outcomes == sorted(outcomes, reverse=True)
        assert (outcomes[0], outcomes[-1]) == (True, False)

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

    @pytest.mark.parametrize('change', ['create', 'update', 'delete'])
    def test_a_change_of_protocols(self, driver, store, change):
        def prepare():
            made = make(driver)
            new_protocol(driver, made['id'], 'stays')
            if change != 'create':
                new_protocol(driver, made['id'])
            return made['id'], driver.list_protocols(made['id'])

        def run(prepared):
            idp_id, _ = prepared
            if change == 'create':
                new_protocol(driver, idp_id)
            elif change == 'update':
                driver.update_protocol(idp_id, 'saml2', {'mapping_id': 'new'})
            else:
                driver.delete_protocol(idp_id, 'saml2')

        outcomes = []
        for _, prepared in faults.each_crash(store, prepare, run):
            idp_id, before = prepared
            now = driver.list_protocols(idp_id)
            outcomes.append(now != before)
            if not outcomes[-1]:
                run(prepared)
                now = driver.list_protocols(idp_id)
            shown = {each['id']: each['mapping_id'] for each in now}
            saml2 = {'create': 'mapping', 'update': 'new'}.get(change)
            assert shown == {'stays': 'mapping'} | (
                {'saml2': saml2} if saml2 else {}
            )
        assert outcomes == sorted(outcomes)
        assert (outcomes[0], outcomes[-1]) == (False, True)


class TestLostReplies:
    """A serial read tells what became of a change."""

    @pytest.mark.parametrize(
        'target', [CLAIMS.insert, IDPS.entity.insert, CLAIMS.set_held]
    )
    def test_create(self, driver, store, target):
        made = new()
        with faults.lose_reply(store, target):
            create(driver, made)
        check_held(driver, store, made)

    @pytest.mark.parametrize(
        'target',
        [
            CLAIMS.set_pending,
            CLAIMS.insert,
            IDPS.entity.update,
            CLAIMS.set_held,
            CLAIMS.free_pending,
        ],
    )
    def test_update(self, driver, store, target):
        made = make(driver)
        after = made | {'remote_ids': [fresh()]}
        with faults.lose_reply(store, target):
            driver.update_idp(made['id'], {'remote_ids': after['remote_ids']})
        check_held(driver, store, after)
        driver.delete_idp(made['id'])
        check_gone(driver, store, made, after)

    @pytest.mark.parametrize(
        'target',
        [CLAIMS.set_pending, IDPS.entity.delete, CLAIMS.free_pending],
    )
    def test_delete(self, driver, store, target):
        made = make(driver)
        with faults.lose_reply(store, target):
            driver.delete_idp(made['id'])
        check_gone(driver, store, made)

    def test_one_that_is_refused(self, driver, store):
        made = make(driver)
        other = new(remote_ids=made['remote_ids'])
        with (
            faults.lose_reply(store, CLAIMS.insert),
            pytest.raises(exception.Conflict),
        ):
            create(driver, other)
        assert found(driver, other) is None
        check_held(driver, store, made)

    def test_changes_of_protocols(self, driver, store):
        made = make(driver)
        for change in (
            lambda: new_protocol(driver, made['id']),
            lambda: driver.update_protocol(
                made['id'], 'saml2', {'mapping_id': 'new'}
            ),
        ):
            with faults.lose_reply(store, IDPS.entity.update):
                change()
        shown = driver.get_protocol(made['id'], 'saml2')
        assert shown['mapping_id'] == 'new'
        with faults.lose_reply(store, IDPS.entity.update):
            driver.delete_protocol(made['id'], 'saml2')
        assert driver.list_protocols(made['id']) == []

    @pytest.mark.parametrize('kind', ['mapping', 'sp'])
    def test_of_what_is_one_row(self, driver, store, kind):
        entity, change = {
            'mapping': (MAPPINGS, {'rules': [{'local': []}]}),
            'sp': (SPS, {'auth_url': 'https://other'}),
        }[kind]
        create, update, get, delete = (
            getattr(driver, f'{verb}_{kind}')
            for verb in ('create', 'update', 'get', 'delete')
        )
        made = fresh()
        urls = dict.fromkeys(
            ('auth_url', 'sp_url', 'relay_state_prefix'), 'https://one'
        )
        with faults.lose_reply(store, entity.insert):
            create(made, {'enabled': True, 'rules': []} | urls)
        with faults.lose_reply(store, entity.update):
            changed = update(made, change)
        assert get(made) == changed
        assert change.items() <= changed.items()
        with faults.lose_reply(store, entity.delete):
            delete(made)
        with pytest.raises(exception.NotFound):
            get(made)


class TestFailures:
    """What failed is as if it had not been tried."""

    @pytest.mark.parametrize(
        'target', [CLAIMS.insert, IDPS.entity.insert, CLAIMS.set_held]
    )
    def test_create(self, driver, store, target, impatient):
        made = new()
        with (
            faults.fail(store, target),
            pytest.raises(errors.StoreUnavailable),
        ):
            create(driver, made)
        assert found(driver, made) is None
        create(driver, made)
        check_held(driver, store, made)

    @pytest.mark.parametrize('target', [CLAIMS.insert, IDPS.entity.update])
    def test_update(self, driver, store, target, impatient):
        made = make(driver)
        after = made | {'remote_ids': [fresh()]}
        with (
            faults.fail(store, target),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.update_idp(made['id'], {'remote_ids': after['remote_ids']})
        check_held(driver, store, made)
        assert CLAIMS.owner(store, remote_id=after['remote_ids'][0]) is None

    def test_delete(self, driver, store):
        made = make(driver)
        with (
            faults.fail(store, IDPS.entity.delete),
            pytest.raises(errors.StoreUnavailable),
        ):
            driver.delete_idp(made['id'])
        check_held(driver, store, made)


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
            assert found(driver, made) is None

    def test_who_comes_late_with_an_id_leaves_nothing(self, driver, store):
        made = new()
        late_one = new(id=made['id'])
        with faults.stalled(
            store, IDPS.entity.insert, lambda: create(driver, late_one)
        ) as late:
            create(driver, made)
        assert type(late.said) is exception.Conflict
        check_held(driver, store, made)
        for each in late_one['remote_ids']:
            assert CLAIMS.settled(store, remote_id=each) is None

    def test_who_comes_late_with_all_the_same_takes_nothing_away(
        self, driver, store
    ):
        made = new()
        with faults.stalled(
            store, IDPS.entity.insert, lambda: create(driver, made)
        ) as late:
            create(driver, made)
        assert type(late.said) is exception.Conflict
        check_held(driver, store, made)

    def test_who_is_slow_loses_its_remote_ids_to_others(
        self, driver, store, impatient
    ):
        slow = new()
        other = new(remote_ids=slow['remote_ids'])
        with faults.stalled(
            store, IDPS.entity.insert, lambda: create(driver, slow)
        ) as late:
            create(driver, other)
        assert type(late.said) is exception.Conflict
        assert found(driver, slow) is None
        check_held(driver, store, other)


class TestRaces:
    def test_a_protocol_comes_while_its_provider_is_deleted(
        self, driver, store
    ):
        made = make(driver)
        with faults.stalled(
            store, IDPS.entity.delete, lambda: driver.delete_idp(made['id'])
        ) as late:
            new_protocol(driver, made['id'])
        assert late.said is None
        check_gone(driver, store, made)
        create(driver, made)
        assert driver.list_protocols(made['id']) == []

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

    def test_two_protocols_at_once_are_both_there(self, driver, store):
        made = make(driver)
        with faults.stalled(
            store,
            IDPS.entity.update,
            lambda: new_protocol(driver, made['id'], 'late'),
        ):
            new_protocol(driver, made['id'], 'early')
        shown = {each['id'] for each in driver.list_protocols(made['id'])}
        assert shown == {'late', 'early'}

    def test_one_of_two_that_make_a_protocol_wins(self, driver, store):
        made = make(driver)
        with faults.stalled(
            store,
            IDPS.entity.update,
            lambda: new_protocol(driver, made['id']),
        ) as late:
            new_protocol(driver, made['id'])
        assert type(late.said) is exception.Conflict

    @pytest.mark.parametrize('what', ['idp', 'protocol'])
    def test_who_comes_while_it_is_deleted_goes_too(self, driver, store, what):
        made = make(driver)
        new_protocol(driver, made['id'])
        if what == 'idp':
            target = IDPS.entity.delete
            call, rest = driver.delete_idp, ()
        else:
            target = IDPS.entity.update
            call, rest = driver.delete_protocol, ('saml2',)
        with faults.stalled(
            store, target, lambda: call(made['id'], *rest)
        ) as late:
            comes = comes_from(made['id'])
        assert late.said is None
        assert not is_known(store, comes)

    def test_who_is_given_another_name_meanwhile_keeps_that(
        self, driver, store
    ):
        made, other = make(driver), make(driver)
        comes = comes_from(made['id'])
        known = comes | {'idp_id': other['id']}
        link = {name: known[name] for name in users.FEDERATED}
        with faults.stalled(
            store,
            users.USERS.entity.delete,
            lambda: driver.delete_idp(made['id']),
        ) as late:
            shadow_users.ShadowUsers().create_federated_object(
                {**link, 'user_id': known['id'], 'display_name': 'shown'}
            )
        assert late.said is None
        assert is_known(store, known)
        assert not is_known(store, comes)

    def test_of_two_updates_at_once_no_remote_id_is_left_over(
        self, driver, store, impatient
    ):
        made = make(driver)
        early, last = ({'remote_ids': [fresh()]} for _ in range(2))
        with faults.stalled(
            store,
            IDPS.entity.update,
            lambda: driver.update_idp(made['id'], last),
        ):
            driver.update_idp(made['id'], early)
        check_held(driver, store, made | last)
        driver.delete_idp(made['id'])
        check_gone(driver, store, made, made | early, made | last)

    @pytest.mark.parametrize(
        'target', [CLAIMS.free_pending, CLAIMS.set_held, IDPS.entity.update]
    )
    def test_one_that_is_given_up_and_taken_again(self, driver, store, target):
        """Who gives it up is late, and must not free what is wanted since."""
        made = make(driver)
        before = {'remote_ids': made['remote_ids']}
        with (
            faults.stalled(
                store,
                target,
                lambda: driver.update_idp(
                    made['id'], {'remote_ids': [fresh()]}
                ),
            ),
            contextlib.suppress(exception.Conflict),
        ):
            driver.update_idp(made['id'], before)
        now = driver.get_idp(made['id'])
        check_held(driver, store, now)
        driver.delete_idp(made['id'])
        check_gone(driver, store, made, now)

    def test_one_that_is_made_again_keeps_its_remote_ids(self, driver, store):
        """Who deletes it is late to free them."""
        made = make(driver)
        with faults.stalled(
            store, CLAIMS.free_pending, lambda: driver.delete_idp(made['id'])
        ) as late:
            create(driver, made)
        assert late.said is None
        check_held(driver, store, made)
        with pytest.raises(exception.Conflict):
            make(driver, remote_ids=made['remote_ids'])

    def test_a_refused_update_of_one_that_is_deleted_holds_nothing(
        self, driver, store
    ):
        """It has made the claims pending, and holds them when it fails."""
        made, other = make(driver), make(driver)
        changes = {'remote_ids': other['remote_ids']}
        with (
            faults.stalled(
                store,
                IDPS.entity.delete,
                lambda: driver.delete_idp(made['id']),
            ),
            pytest.raises(exception.Conflict),
        ):
            driver.update_idp(made['id'], changes)
        check_gone(driver, store, made)

    def test_two_that_want_one_remote_id(self, driver, store):
        made, remote_id = make(driver), fresh()
        other = new(remote_ids=[remote_id])
        with (
            faults.stalled(
                store,
                IDPS.entity.update,
                lambda: driver.update_idp(
                    made['id'], {'remote_ids': [remote_id]}
                ),
            ),
            pytest.raises(exception.Conflict),
        ):
            create(driver, other)
        assert finds(driver, remote_id) == made['id']
        assert found(driver, other) is None

    def test_an_update_never_brings_a_deleted_one_back(self, driver, store):
        made = make(driver)
        with faults.stalled(
            store,
            IDPS.entity.update,
            lambda: driver.update_idp(made['id'], {'description': 'late'}),
        ) as late:
            driver.delete_idp(made['id'])
        assert type(late.said) is exception.IdentityProviderNotFound
        check_gone(driver, store, made)


@pytest.mark.parametrize('seconds', [-5, 5])
def test_no_clock_decides(driver, store, seconds):
    made = make(driver)
    with faults.clock_off_by(store, seconds):
        driver.delete_idp(made['id'])
    check_gone(driver, store, made)
    create(driver, made)
    check_held(driver, store, made)
