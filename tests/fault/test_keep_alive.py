# SPDX-License-Identifier: Apache-2.0
"""Connections that are open and idle keep no worker busy."""

from __future__ import annotations

import http.client
from contextlib import closing
from pathlib import Path

from lab.server import Keystone
from lab.waiting import PATIENCE


def test_idle_connections_hold_no_worker(tmp_path: Path) -> None:
    """One worker of one thread, and more open connections than that."""
    keystone = Keystone(tmp_path, workers=1, threads=1, keepalive=2 * PATIENCE)
    with keystone:
        keystone.start()
        connections = [
            http.client.HTTPConnection(
                '127.0.0.1', keystone.port, timeout=PATIENCE
            )
            for _ in range(3)
        ]
        first, second, third = connections
        with closing(first), closing(second), closing(third):
            for connection in first, second, third, first:
                before = connection.sock
                connection.request('GET', '/v3')
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                # It stays open, and is the one of before.
                assert connection.sock is not None
                assert before in (None, connection.sock)
