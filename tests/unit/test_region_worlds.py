# SPDX-License-Identifier: Apache-2.0
"""Worlds of two regions make each call of their drivers, with all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from keystone import exception
from keystone.common import utils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import events, revoke
from tests import sweep
from tests.fault import region_token_worlds
from tests.fault.region_tokens import COMPARED, Served
from tests.unit.test_architecture import CLASSES, base_of

#: What each event has, and no token is compared with.
TIMES = {'issued_before', 'revoked_at'}
WORLDS = region_token_worlds.WORLDS
DRIVERS = {driver for world in WORLDS for driver in world.drivers.values()}


def stand_in(driver: type[base.Driver]) -> Any:
    """Return a driver that notes what it is called, and finds nothing."""
    ids = map(str, itertools.count())
    made = mock.create_autospec(driver, instance=True)
    for name, answer in {
        'generate_id_and_issued_at': lambda _: (
            next(ids),
            utils.isotime(clock.utcnow(), subsecond=True),
        ),
        'validate_token': exception.TokenNotFound('none'),
        'validate_receipt': exception.ReceiptNotFound('none'),
        'list_events': lambda **_: [],
    }.items():
        if hasattr(made, name):
            getattr(made, name).side_effect = answer
    return made


def made(world: type[Served]) -> Iterator[tuple[type[base.Driver], Any]]:
    """Do all operations of a world and look at it; yield each call."""
    drivers: dict[type[base.Driver], Any] = {}

    class Noted(world):  # type: ignore[misc, valid-type]
        drivers = {
            name: mock.Mock(side_effect=lambda d=driver: stand_in_of(d))
            for name, driver in world.drivers.items()
        }

    def stand_in_of(driver: type[base.Driver]) -> Any:
        return drivers.setdefault(driver, stand_in(driver))

    one = Noted(mock.Mock())
    for operation in world.operations().values():
        operation.call(one)
    one.state()
    for driver, noted in drivers.items():
        for call in noted.method_calls:
            yield driver, call


@pytest.fixture(scope='module')
def calls() -> dict[type[Served], list[tuple[type[base.Driver], Any]]]:
    return {world: [*made(world)] for world in WORLDS}


def test_each_driver_of_tokens_is_in_a_world() -> None:
    there = {
        each
        for each in CLASSES.values()
        if each.__module__.startswith(revoke.__name__.rpartition('.')[0])
    }
    assert there == DRIVERS


def test_each_method_is_called(calls: Any) -> None:
    every = [each for of_world in calls.values() for each in of_world]

    def check(driver: type[base.Driver]) -> None:
        called = {call[0] for each, call in every if each is driver}
        assert called == {*base_of(driver).__abstractmethods__} | {
            name for name in vars(driver) if not name.startswith('_')
        }

    sweep.each({f'{each.__module__}': (each,) for each in DRIVERS}, check)


def names_of_events(calls: Any, world: type[Served]) -> list[set[str]]:
    """Return what each event of a world has, but for its times."""
    return [
        {name for name, value in vars(call.args[0]).items() if value} - TIMES
        for driver, call in calls[world]
        if driver is revoke.Revoke and call[0] == 'revoke'
    ]


@pytest.mark.parametrize(
    'world',
    [region_token_worlds.IssuedTokens, region_token_worlds.RevocationLists],
)
def test_each_attribute_is_in_an_event(
    calls: Any, world: type[Served]
) -> None:
    named = set().union(*names_of_events(calls, world))
    assert named == {*COMPARED}


def test_each_subject_has_an_event_of_its_own(calls: Any) -> None:
    alone = names_of_events(calls, region_token_worlds.IssuedTokens)
    subjects = {
        name
        for name in {*COMPARED} - {'expires_at'}
        if len(events.subjects(events.values_of({name: 'it'}))) > 1
    }
    assert {'user_id', 'audit_id'} < subjects
    assert all({name} in alone for name in subjects)
