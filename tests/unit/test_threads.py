# SPDX-License-Identifier: Apache-2.0
"""The warning about two threads that use the store at once."""

from __future__ import annotations

import threading

from keystone_cassandra_token.db.threads import Turns


def in_another_thread(turns: Turns) -> None:
    def take() -> None:
        with turns:
            pass

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()


def test_one_thread_may_do_several_things_at_once(caplog) -> None:
    turns = Turns()
    with turns, turns:
        pass
    with turns:
        pass
    assert not caplog.records


def test_threads_may_take_turns(caplog) -> None:
    turns = Turns()
    with turns:
        pass
    in_another_thread(turns)
    with turns:
        pass
    assert not caplog.records


def test_two_threads_at_once_are_one_warning(caplog) -> None:
    turns = Turns()
    for _ in range(3):
        with turns:
            in_another_thread(turns)
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert 'threads = 1' in record.getMessage()
