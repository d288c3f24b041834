# SPDX-License-Identifier: Apache-2.0
"""What one region has made is found in the other one before it is there.

Nothing gets through between the regions, so nothing that is found in the
second one has been replicated; clients reach the nodes of both.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keystone.conf
import pytest
from keystone import exception
from keystone.common import utils as ks_utils
from keystone.models.receipt_model import ReceiptModel
from keystone.models.token_model import TokenModel
from lab.waiting import until
from oslo_utils import timeutils

from keystone_cassandra_token.db import deadline, escalation, remembered
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.token import provider as tokens
from keystone_cassandra_token.drivers.token import receipt as receipts
from tests.fault import faults, two_regions
from tests.fault.two_regions import Regions, overridden

D = TypeVar('D', bound=Driver)

KEY = 'k' * 40


@pytest.fixture(scope='module')
def started() -> Iterator[Regions]:
    with two_regions.started() as regions:
        yield regions


class Pair:
    """The two regions, of which the second one asks the first one.

    :ivar regions: both.
    :ivar here: the store of a server in the second one.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.there, here = regions.stores
        self.here = copy.copy(here)
        self.here.escalation = escalation.Escalation(self.here)

    @property
    def asked(self) -> Store:
        """The store by which the second one asks the first one."""
        assert self.here.escalation is not None
        others = self.here.escalation.others()
        (reached,) = self.here.escalation.reached(others, others)
        return reached.store

    def of(self, driver: type[D]) -> tuple[D, D]:
        """Return a driver of the first region, and of the second one."""
        made = driver(), driver()
        for each, store in zip(made, (self.there, self.here), strict=True):
            each.db = store
        return made

    @contextlib.contextmanager
    def counted(self) -> Iterator[Sent]:
        """Note what the second one sends here, and what it asks there."""
        with (
            faults.counted(self.here) as here,
            faults.counted(self.asked) as there,
        ):
            yield Sent(here, there)


class Sent:
    """Statements sent to the own region, and to the other one."""

    def __init__(self, here: list[Any], there: list[Any]) -> None:
        self.here = here
        self.there = there

    @property
    def numbers(self) -> tuple[int, int]:
        return len(self.here), len(self.there)


@pytest.fixture
def pair(started: Regions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    # This machine may be slow.
    monkeypatch.setattr(escalation, 'WITHIN', faults.PATIENCE)
    deadline.serving.set()
    pair = Pair(started)
    try:
        # Else the first test would count how it is opened.
        pair.asked.sessions.get()
        yield pair
    finally:
        deadline.serving.clear()
        assert pair.here.escalation is not None
        pair.here.escalation.close()


@pytest.fixture(params=[None, KEY], ids=['no key', 'key'])
def key(request: pytest.FixtureRequest) -> Iterator[str | None]:
    with overridden('cassandra', token_key=request.param):
        yield request.param


def in_an_hour() -> str:
    return str(
        ks_utils.isotime(
            timeutils.utcnow() + datetime.timedelta(hours=1), subsecond=True
        )
    )


def a_token() -> TokenModel:
    model = TokenModel()
    model.user_id, model.methods = uuid.uuid4().hex, ['password']
    model.audit_id = uuid.uuid4().hex
    model.expires_at = in_an_hour()
    return model


def a_receipt() -> ReceiptModel:
    model = ReceiptModel()
    model.user_id, model.methods = uuid.uuid4().hex, ['password', 'totp']
    model.expires_at = in_an_hour()
    return model


def issued(driver: Any, model: Any) -> str:
    return str(driver.generate_id_and_issued_at(model)[0])


def is_refused(validate: Callable[[str], object], value: str) -> bool:
    try:
        validate(value)
    except exception.NotFound:
        return True
    return False


class TestIds:
    def test_a_token_is_found(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(tokens.Provider)
        model = a_token()
        with pair.regions.held():
            token = issued(there, model)
            with pair.counted() as sent:
                found = here.validate_token(token)
        assert found[0] == model.user_id
        assert sent.numbers == (1, 1)

    def test_a_receipt_is_found(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(receipts.Provider)
        model = a_receipt()
        with pair.regions.held():
            receipt = issued(there, model)
            with pair.counted() as sent:
                found = here.validate_receipt(receipt)
        assert found[0] == model.user_id
        assert sent.numbers == (1, 1)

    def test_it_is_asked_for_once_in_a_request(self, pair: Pair) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held():
            token = issued(there, a_token())
            with remembered.within_request(), pair.counted() as sent:
                for _ in range(2):
                    here.validate_token(token)
        assert sent.numbers == (1, 1)

    def test_what_is_here_is_not_asked_for(self, pair: Pair) -> None:
        _, here = pair.of(tokens.Provider)
        token = issued(here, a_token())
        with pair.counted() as sent:
            here.validate_token(token)
        assert sent.numbers == (1, 0)

    def test_what_was_issued_here_is_not(self, pair: Pair) -> None:
        connection = pair.here.sessions.get()
        invented = tokens.IDS.make(keystone.conf.CONF, connection.local_dc)
        _, here = pair.of(tokens.Provider)
        with pair.counted() as sent:
            assert is_refused(here.validate_token, invented)
        assert sent.numbers == (1, 0)

    def test_what_was_issued_long_ago_is_not(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held():
            token = issued(there, a_token())
            ahead = escalation.FRESH + datetime.timedelta(minutes=2)
            real = escalation.clock.utcnow
            monkeypatch.setattr(
                escalation.clock, 'utcnow', lambda: real() + ahead
            )
            with pair.counted() as sent:
                assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_it_is_switched_off(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(tokens.Provider)
        with (
            pair.regions.held(),
            pair.counted() as sent,
            overridden('cassandra', escalation_rate=0.0),
        ):
            token = issued(there, a_token())
            assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_a_command_asks_nobody(self, pair: Pair) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held(), pair.counted() as sent:
            token = issued(there, a_token())
            deadline.serving.clear()
            assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_the_local_answer_stands_while_the_other_one_hangs(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, here = pair.of(tokens.Provider)
        (node, _) = pair.regions.nodes
        issued(there, a_token())  # prepared
        with pair.regions.held():
            found, late = issued(there, a_token()), issued(there, a_token())
            here.validate_token(found)
            monkeypatch.setattr(escalation, 'WITHIN', 0.5)
            monkeypatch.setattr(escalation, 'HOLDS', float(faults.PATIENCE))
            node.pause()
            try:
                with pair.counted() as sent:
                    assert is_refused(here.validate_token, late)
                    asked = len(sent.there)
                    assert asked
                    # At once: nobody is asked.
                    assert is_refused(here.validate_token, late)
                    assert sent.numbers == (2, asked)
            finally:
                node.resume()
            # The own session has not heard of it.
            assert not pair.here.sessions.outage.kinds
            assert pair.here.escalation is not None
            (other,) = pair.here.escalation.there.values()

            def is_found() -> bool:
                other.held_until = 0.0
                return not is_refused(here.validate_token, late)

            until(is_found, 'the other region is asked again')
