# SPDX-License-Identifier: Apache-2.0
"""Which nodes hang is found out before the driver tries them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cassandra.cluster
import command
import pytest
from oslo_config import cfg

from keystone_cassandra_token.cmd import doctor
from keystone_cassandra_token.db import nodes
from keystone_cassandra_token.db.findings import State

ADDRESSES = {
    'silent': '127.0.0.1',
    'answering': '127.0.0.2',
    'closing': '127.0.0.3',
    'refusing': '127.0.0.4',
}
ALL = list(ADDRESSES.values())


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of what listens, or does not, at each address."""
    monkeypatch.setattr(nodes, 'PROBE', 1.0)
    with contextlib.ExitStack() as stack:
        # As a process that is stopped: the system accepts connections for it.
        silent = stack.enter_context(
            socket.create_server((ADDRESSES['silent'], 0))
        )
        number = int(silent.getsockname()[1])

        def serve(name: str, act: Callable[[socket.socket], object]) -> None:
            listening = stack.enter_context(
                socket.create_server((ADDRESSES[name], number))
            )

            def run() -> None:
                with contextlib.suppress(OSError):
                    connected, _ = listening.accept()
                    with connected:
                        act(connected)

            threading.Thread(target=run, daemon=True).start()

        serve('answering', lambda connected: connected.send(b'\x84'))
        serve('closing', lambda connected: None)
        yield number


def test_who_says_nothing_is_silent(port: int) -> None:
    """Of all others the driver says more."""
    asked = ((address, port) for address in ALL)
    assert nodes.silent(asked, None) == {ADDRESSES['silent']}
    assert nodes.silent((), None) == set()


def made(folder: Path, port: int, *names: str) -> cfg.ConfigOpts:
    points = [ADDRESSES[name] for name in names]
    run = command.for_nodes(folder, points, port, 'ks')
    return command.configuration(run.path)


def test_the_doctor_connects_to_the_others(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = made(tmp_path, port, 'silent', 'answering', 'refusing')
    used: list[list[str]] = []

    def cluster(contact_points: list[str], **options: object) -> None:
        used.append(contact_points)
        raise OSError

    monkeypatch.setattr(cassandra.cluster, 'Cluster', cluster)
    list(doctor.examine(conf))
    assert used == [[ADDRESSES['answering'], ADDRESSES['refusing']]]


def test_the_doctor_names_who_says_nothing(port: int, tmp_path: Path) -> None:
    found = list(doctor.examine(made(tmp_path, port, 'silent')))
    assert found[-1].state is State.FAIL
    assert f'{ADDRESSES["silent"]}: no answer at port' in found[-1].text
