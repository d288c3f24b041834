# SPDX-License-Identifier: Apache-2.0
"""A fork after first use: parent and children all work, each by itself."""

import datetime
import multiprocessing
import os
import queue
import threading
import uuid

import pytest
from keystone import exception
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel

from keystone_cassandra_token.db import clock, errors, session
from keystone_cassandra_token.drivers.token import provider as token
from keystone_cassandra_token.drivers.token import revoke

CHILDREN = 4
#: When the tokens asked about were issued: before all revocations here.
ISSUED = clock.utcnow().replace(microsecond=0)
processes = multiprocessing.get_context('fork')


def issue(provider):
    model = TokenModel()
    model.user_id = uuid.uuid4().hex
    model.methods = ['password']
    model.audit_id = uuid.uuid4().hex[:22]
    model.expires_at = (ISSUED + datetime.timedelta(hours=1)).isoformat() + 'Z'
    return provider.generate_id_and_issued_at(model)[0]


def is_revoked(driver, user_id):
    values = revoke_model.blank_token_data(ISSUED)
    values |= {'roles': [], 'user_id': user_id}
    return revoke_model.is_revoked(driver.list_events(token=values), values)


def work(provider, driver, known):
    """Do some of everything; return a token and a revoked user."""
    assert provider.validate_token(known)
    with pytest.raises(exception.TokenNotFound):
        provider.validate_token(token.PREFIX + 'A' * 43)
    made = issue(provider)
    user_id = uuid.uuid4().hex
    driver.revoke(revoke_model.RevokeEvent(user_id=user_id))
    assert is_revoked(driver, user_id)
    return made, user_id


def run(results, action, *arguments):
    try:
        results.put((os.getpid(), action(*arguments)))
    except BaseException as error:
        results.put((os.getpid(), repr(error)))
        raise


def in_children(action, *arguments, number=CHILDREN):
    """Run something in forked processes at once; return their results."""
    results = processes.Queue()
    children = [
        processes.Process(target=run, args=(results, action, *arguments))
        for _ in range(number)
    ]
    try:
        for child in children:
            child.start()
        found = []
        for _ in children:
            try:
                found.append(results.get(timeout=120))
            except queue.Empty:
                pytest.fail('a child did not come to its end')
        for child in children:
            child.join(60)
            assert child.exitcode == 0, found
    finally:
        for child in children:
            child.kill()
            child.join()
    return found


@pytest.fixture
def provider(store):
    return token.Provider()


@pytest.fixture
def driver(store):
    return revoke.Revoke()


def check_all(provider, driver, found):
    for _, (made, user_id) in found:
        assert provider.validate_token(made)
        assert is_revoked(driver, user_id)


def test_parent_and_children_work(provider, driver, store):
    known = issue(provider)  # the session is open now
    connection = store.sessions.get()

    def child():
        assert store.sessions.current is None, "the parent's session"
        done = work(provider, driver, known)
        assert store.sessions.get().pid == os.getpid()
        # And once more: a grandchild.
        ((_, grandchild),) = in_children(
            work, provider, driver, done[0], number=1
        )
        check_all(provider, driver, [(0, grandchild)])
        store.close()
        return done

    found = in_children(child)
    assert len({pid for pid, _ in found} | {os.getpid()}) == CHILDREN + 1
    # The parent's own session is as it was.
    assert store.sessions.get() is connection
    check_all(provider, driver, found)
    work(provider, driver, known)


def test_fork_before_first_use(provider, driver, store):
    known = issue(provider)
    store.close()
    found = in_children(work, provider, driver, known)
    check_all(provider, driver, found)


def test_fork_while_others_use_the_session(provider, driver, store):
    """Locks that other threads hold at the fork must not stop a child."""
    known = issue(provider)
    stop = threading.Event()
    failures = []

    def keep_busy():
        while not stop.is_set():
            try:
                provider.validate_token(known)
            except errors.StoreUnavailable as error:
                failures.append(error)

    threads = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = in_children(work, provider, driver, known)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failures
    check_all(provider, driver, found)


def test_a_fork_while_the_session_opens(provider, driver, store, monkeypatch):
    """The lock of the opening thread is not there in the child."""
    known = issue(provider)
    store.close()
    opening, go_on = threading.Event(), threading.Event()
    real, parent = session.connect, os.getpid()

    def connect(conf, place):
        if os.getpid() == parent:
            opening.set()
            assert go_on.wait(60)
        return real(conf, place=place)

    monkeypatch.setattr(session, 'connect', connect)
    thread = threading.Thread(target=provider.validate_token, args=(known,))
    thread.start()
    try:
        assert opening.wait(60)
        found = in_children(work, provider, driver, known)
    finally:
        go_on.set()
        thread.join(60)
    check_all(provider, driver, found)
