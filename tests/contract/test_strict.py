# SPDX-License-Identifier: Apache-2.0
"""The strict mode: durable here first, confirmed by all at the end.

One datacenter is all of them here: what matters is which write fails, and when
it is waited for.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import cassandra
import pytest
from keystone.models import revoke_model
from oslo_config import cfg

from keystone_cassandra_token.conf.options import GROUP
from keystone_cassandra_token.db import awaited, errors
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.token import revoke
from tests.contract.test_told_revocations import is_revoked
from tests.fault import faults


@pytest.fixture
def strict(conf: cfg.ConfigOpts, store: Store) -> Iterator[Store]:
    conf.set_override('revocation_write_consistency', 'EACH_QUORUM', GROUP)
    store.close()
    yield store
    conf.clear_override('revocation_write_consistency', GROUP)
    store.close()


@pytest.fixture
def user_id() -> str:
    return uuid.uuid4().hex


def revoked(user_id: str) -> None:
    event = revoke_model.RevokeEvent(user_id=user_id)
    revoke.Revoke().revoke(event)


class Sent:
    """What is sent for revocations: the wide one first, then the local one.

    :param fails: which of them fails, by number.
    :ivar waited: how many wide ones were waited for.
    """

    def __init__(self, fails: int | None = None) -> None:
        self._fails = fails
        self.count = self.waited = 0

    def __call__(self, statements: Any, send: Any) -> Any:
        if revoke.REVOKE not in statements:
            return send()
        number, self.count = self.count, self.count + 1
        return Answer(self, number, send())

    def result(self, number: int, answer: Any) -> Any:
        found = answer.result()
        if number % 2 == 0:
            self.waited += 1
        if number == self._fails:
            raise cassandra.WriteTimeout('no', write_type=0)
        return found


class Answer:
    def __init__(self, sent: Sent, number: int, answer: Any) -> None:
        self._sent, self._number, self._answer = sent, number, answer

    def result(self) -> Any:
        return self._sent.result(self._number, self._answer)

    def add_callbacks(self, *_: object) -> None:
        pass


def test_what_is_not_durable_here_is_not_acknowledged(
    strict: Store, user_id: str
) -> None:
    with (
        faults.intercepted(strict, Sent(fails=1)),
        pytest.raises(errors.StoreUnavailable) as raised,
    ):
        revoked(user_id)
    assert not isinstance(raised.value, errors.DatacenterUnavailable)


def test_what_others_do_not_confirm_is_told(
    strict: Store, user_id: str
) -> None:
    with (
        faults.intercepted(strict, Sent(fails=0)),
        pytest.raises(errors.DatacenterUnavailable),
    ):
        revoked(user_id)
    assert is_revoked(user_id)


def test_it_is_not_told_if_the_operator_wants_that(
    strict: Store, user_id: str, conf: cfg.ConfigOpts
) -> None:
    conf.set_override('fail_unconfirmed_revocations', False, GROUP)
    try:
        with faults.intercepted(strict, Sent(fails=0)):
            revoked(user_id)
    finally:
        conf.clear_override('fail_unconfirmed_revocations', GROUP)
    assert is_revoked(user_id)


def test_a_request_waits_for_all_of_them_at_its_end(
    strict: Store, user_id: str
) -> None:
    other = uuid.uuid4().hex
    sent = Sent(fails=2)
    with (
        faults.intercepted(strict, sent),
        awaited.within_request() as last,
    ):
        revoked(user_id)
        revoked(other)
        assert (sent.count, sent.waited) == (4, 0)
        assert is_revoked(user_id)
        assert is_revoked(other)
        with pytest.raises(errors.DatacenterUnavailable):
            last.result()
        assert sent.waited == 2
        last.result()  # and not again
    assert sent.waited == 2


def test_another_thread_waits_for_its_own(strict: Store, user_id: str) -> None:
    sent = Sent()
    with (
        faults.intercepted(strict, sent),
        awaited.within_request() as last,
    ):
        thread = threading.Thread(target=revoked, args=(user_id,))
        thread.start()
        thread.join()
        assert sent.waited == 1
        last.result()
    assert sent.waited == 1
