# SPDX-License-Identifier: Apache-2.0
"""One log line for an outage."""

from __future__ import annotations

import logging
import os
import threading
import uuid

import pytest
from keystone import exception

from keystone_cassandra_token.db import errors, outage

KEYSTONE = 'keystone.server.flask.application'
OURS = outage.__name__


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """Return a function that returns what was logged since the last call."""
    caplog.set_level(logging.DEBUG, OURS)

    def taken() -> list[tuple[str, str]]:
        found = [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.name == OURS
        ]
        caplog.clear()
        return found

    return taken


@pytest.fixture
def board() -> outage.Board:
    return outage.Board()


@pytest.fixture
def state(board) -> outage.Outage:
    return outage.Outage(board)


@pytest.fixture
def later(monkeypatch):
    """Let all waiting be over at once."""
    for name in ('HOLDS', 'ECHO'):
        monkeypatch.setattr(outage, name, 0.0)


def test_an_outage_is_one_line_and_its_end_another(lines, state) -> None:
    for _ in range(5):
        state.began('read', 'No node.')
    ((level, text),) = lines()
    assert level == 'ERROR'
    assert text == (
        'No node. Requests that need it are answered with 503.'
        ' outage=began scope=region kind=read'
    )
    for _ in range(5):
        state.ended('read')
    ((level, text),) = lines()
    assert level == 'WARNING'
    assert text.startswith(
        'Cassandra answers again. outage=ended scope=region seconds='
    )


def test_each_new_outage_is_told(lines, state, later) -> None:
    for _ in range(3):
        state.began('read', 'no node')
        state.ended('read')
    assert len(lines()) == 6


def test_success_without_an_outage_is_silent(lines, state) -> None:
    state.ended('read')
    assert lines() == []


def test_kinds_of_one_scope_are_one_outage(lines, state) -> None:
    for kind in 'connect', 'read', 'token_write', 'lwt_local':
        state.began(kind, 'no node')
    assert len(lines()) == 1


def test_it_lasts_as_long_as_another_kind_fails(
    lines, state, monkeypatch
) -> None:
    state.began('read', 'no node')
    state.began('write', 'no node')
    lines()
    state.ended('read')
    assert lines() == []
    monkeypatch.setattr(outage, 'HOLDS', 0.0)
    state.ended('read')
    assert len(lines()) == 1


def test_other_regions_are_a_scope_of_their_own(lines, state) -> None:
    state.began('lwt_global', 'region away')
    state.ended('read')
    assert len(lines()) == 1
    state.began('read', 'no node')
    assert len(lines()) == 1
    state.ended('lwt_global')
    ((_, text),) = lines()
    assert 'scope=all_regions' in text


def test_workers_of_a_server_tell_once(lines, board) -> None:
    """Each has an outage of its own; what was forked shares the board."""
    workers = [outage.Outage(board) for _ in range(4)]
    for each in workers:
        each.began('read', 'no node')
    assert len(lines()) == 1
    for each in workers:
        each.ended('read')
    assert len(lines()) == 1


def test_a_child_shares_what_its_parent_knows(board) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if board.began('region') else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert board.is_out()
    assert not board.began('region')


def test_who_fails_on_after_the_end_is_told_of_later(
    lines, board, monkeypatch
) -> None:
    one, other = outage.Outage(board), outage.Outage(board)
    for each in one, other:
        each.began('read', 'no node')
    one.ended('read')
    assert len(lines()) == 2
    other.began('read', 'no node')
    assert lines() == []
    monkeypatch.setattr(outage, 'ECHO', 0.0)
    other.began('read', 'no node')
    ((level, _),) = lines()
    assert level == 'ERROR'


def test_what_nobody_has_ended_is_over_some_time(
    lines, board, monkeypatch
) -> None:
    """Who had noticed it is gone, or asks for nothing any more."""
    outage.Outage(board).began('read', 'no node')
    monkeypatch.setattr(outage, 'FORGOTTEN', 0.0)
    outage.Outage(board).began('read', 'no node')
    assert len(lines()) == 2


def test_what_is_new_of_an_outage_is_told_once(lines, board) -> None:
    workers = [outage.Outage(board) for _ in range(3)]
    for each in workers:
        each.began('read', 'no node')
    lines()
    for text in ('afresh', 'refused'):
        for each in workers:
            each.goes_on('connect', text)
    assert [text for _, text in lines()] == [
        'afresh outage=goes_on scope=region',
        'refused outage=goes_on scope=region',
    ]


def test_threads_that_fail_at_once_log_one_line(lines, state) -> None:
    barrier = threading.Barrier(8)

    def fail() -> None:
        barrier.wait()
        state.began('read', 'no node')

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines()) == 1


@pytest.fixture
def keystone_logger():
    logger = logging.getLogger(KEYSTONE)
    before = list(logger.filters)
    outage.quieten()
    yield logger
    logger.filters[:] = before


def logged(logger, caplog, error: BaseException | None) -> int:
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger.name):
        logger.error('failed', exc_info=error)
    return len(caplog.records)


@pytest.mark.parametrize(
    'error',
    [
        errors.StoreUnavailable('x'),
        errors.OutcomeUnknown('x'),
        errors.SchemaMissing('x'),
        errors.DatacenterUnavailable('x'),
    ],
)
def test_keystone_logs_no_traceback_of_an_outage(
    keystone_logger, caplog, error
) -> None:
    assert logged(keystone_logger, caplog, error) == 0


@pytest.mark.parametrize(
    'error',
    [
        None,
        ValueError('x'),
        exception.ServiceUnavailable('x'),
        exception.TrustNotFound(trust_id='x'),
    ],
)
def test_keystone_logs_everything_else(keystone_logger, caplog, error) -> None:
    assert logged(keystone_logger, caplog, error) == 1


def test_other_loggers_are_left_alone(keystone_logger, caplog) -> None:
    other = logging.getLogger('keystone.server')
    assert logged(other, caplog, errors.StoreUnavailable('x')) == 1


def test_setting_the_filters_again_adds_none(keystone_logger) -> None:
    before = list(keystone_logger.filters)
    outage.quieten()
    assert keystone_logger.filters == before


@pytest.fixture
def driver_logger(board, monkeypatch):
    monkeypatch.setattr(outage, 'BOARD', board)
    outage.OF_THE_DRIVER.take()  # of other tests
    outage.quieten()
    return logging.getLogger('cassandra.cluster')


def test_the_driver_says_a_thing_of_a_node_once(
    driver_logger, caplog, monkeypatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(outage.time, 'monotonic', lambda: now[0])
    a, b = (uuid.uuid4().hex for _ in range(2))

    def say(node: str) -> int:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, driver_logger.name):
            driver_logger.warning(
                'Failed to connect %s', node, exc_info=ValueError('x')
            )
        assert not any(record.exc_info for record in caplog.records)
        return len(caplog.records)

    assert [say(a), say(a), say(b), say(a)] == [1, 0, 1, 0]
    now[0] += 60
    assert [say(a), say(a)] == [1, 0]


def test_the_driver_is_silent_in_an_outage(
    driver_logger, caplog, lines, state
) -> None:
    state.began('read', 'no node')
    for number in range(3):
        driver_logger.warning('Failed to connect %s', number)
    assert not [r for r in caplog.records if r.name == driver_logger.name]
    lines()
    state.ended('read')
    ((_, text),) = lines()
    assert text.endswith('driver_lines=3')


def test_the_driver_may_debug(driver_logger, caplog) -> None:
    with caplog.at_level(logging.DEBUG, driver_logger.name):
        for _ in range(3):
            driver_logger.debug('Sending', exc_info=ValueError('x'))
    assert len(caplog.records) == 3


MIDDLEWARE = 'keystone.server.flask.request_processing.middleware.auth_context'


def test_keystone_logs_no_line_for_each_token_it_cannot_validate(
    caplog,
) -> None:
    logger = logging.getLogger(MIDDLEWARE)
    before = list(logger.filters)
    outage.quieten()
    try:
        # As the middleware does it: the exception in place of a text.
        logger.warning(errors.StoreUnavailable('x'))
        assert not caplog.records
        logger.warning(exception.Unauthorized())
        assert len(caplog.records) == 1
    finally:
        logger.filters[:] = before
