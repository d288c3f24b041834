# SPDX-License-Identifier: Apache-2.0
"""Keystone's WSGI application, whose answers name the worker.

Each answer carries ``X-Worker``, the process id of the worker that gave it,
so that a client can ask each worker.  With ``KEYSTONE_LAB_LOGIN`` set to a
password, the process that loads the application first logs in as ``admin``:
the drivers are then in use before the workers are forked.  With
``KEYSTONE_LAB_STATEMENTS`` set to the path of a file, each request adds to it
what it sent to the databases (:mod:`lab.statements`).
"""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lab import shifted_clock

# Keystone takes the options of the process for its own.
del sys.argv[1:]
# Before others take the functions that it replaces.
if shift := os.environ.get(shifted_clock.VARIABLE):
    shifted_clock.install(Path(shift))

from keystone_cassandra_token.wsgi import application as _keystone  # noqa: E402
from lab import statements  # noqa: E402


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Answer a request as Keystone does, and say who answered."""

    def start(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Any:
        if _statements:
            _statements.end(environ)
        named = [*headers, ('X-Worker', str(os.getpid()))]
        return start_response(status, named, exc_info)

    if _statements:
        _statements.begin()
    return _keystone(environ, start)


def _log_in(password: str) -> None:
    from werkzeug.test import Client

    user = {'name': 'admin', 'domain': {'id': 'default'}, 'password': password}
    identity = {'methods': ['password'], 'password': {'user': user}}
    answer = Client(application).post(
        '/v3/auth/tokens', json={'auth': {'identity': identity}}
    )
    print(f'lab: log-in before the fork: {answer.status}', file=sys.stderr)


_statements = None
if path := os.environ.get(statements.VARIABLE):
    _statements = statements.Record(path)
    _statements.watch()
if 'KEYSTONE_LAB_LOGIN' in os.environ:
    _log_in(os.environ.pop('KEYSTONE_LAB_LOGIN'))
