# SPDX-License-Identifier: Apache-2.0
"""The WSGI filter, and the deadline that it begins."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import keystone.conf
import pytest
from werkzeug.test import Client

from keystone_cassandra_token import wsgi_filter
from keystone_cassandra_token.db import awaited, deadline, errors
from keystone_cassandra_token.db.request import Future

NOBODY_S = 100.0


@pytest.fixture
def conf() -> Any:
    keystone.conf.configure()
    return keystone.conf.CONF


def answering(status: str, *headers: tuple[str, str]) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return [str(deadline.remaining(NOBODY_S)).encode()]

    return app


@pytest.mark.parametrize(
    ('app', 'expected'),
    [
        (answering('503 Service Unavailable'), '1'),
        (answering('503 Busy', ('retry-after', '9')), '9'),
        (answering('500 Fault'), None),
        (answering('200 OK'), None),
    ],
)
def test_503_says_when_to_come_back(conf, app, expected) -> None:
    answer = Client(wsgi_filter.Filter(app)).get('/')
    assert answer.headers.get('Retry-After') == expected
    assert len(answer.headers.getlist('Retry-After')) <= 1


def test_a_request_has_a_deadline(conf) -> None:
    app = wsgi_filter.Filter(answering('200 OK'))
    conf.set_override('request_deadline', 7.0, 'cassandra')
    try:
        left = float(Client(app).get('/').data)
    finally:
        conf.clear_override('request_deadline', 'cassandra')
    assert 0 < left <= 7
    assert deadline.remaining(NOBODY_S) is None


class Regions:
    """What a request has sent to other regions, and waits for."""

    def __init__(self, *confirmed: bool) -> None:
        self._confirmed = confirmed
        self.told: list[str] = []

    def app(self, status: str) -> Callable[..., Any]:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            for confirmed in self._confirmed:
                self.told.append('sent')
                awaited.at_last(
                    Future(functools.partial(self._end, confirmed))
                )
            start_response(status, [('X-Own', 'yes')])
            return [b'own']

        return app

    def _end(self, confirmed: bool) -> None:
        self.told.append('waited')
        if not confirmed:
            raise errors.DatacenterUnavailable('Region two was not told.')


@pytest.mark.parametrize(
    ('status', 'confirmed', 'expected'),
    [
        ('204 No Content', [True, True], 204),
        ('204 No Content', [True, False], 503),
        ('200 OK', [False, False], 503),
        # It has another reason to be refused.
        ('404 Not Found', [False], 404),
    ],
)
def test_other_regions_are_waited_for_last(
    conf, status, confirmed, expected
) -> None:
    regions = Regions(*confirmed)
    answer = Client(wsgi_filter.Filter(regions.app(status))).get('/')
    count = len(confirmed)
    assert sorted(regions.told[:count]) == ['sent'] * count
    assert regions.told[count:] == ['waited'] * count
    assert answer.status_code == expected
    if expected == 503:
        assert answer.json == {
            'error': {
                'code': 503,
                'title': 'Service Unavailable',
                'message': errors.DatacenterUnavailable.public,
            }
        }
        assert answer.headers['Retry-After'] == '1'
    else:
        assert answer.data == b'own'
    # Such as the id of the request.
    assert answer.headers['X-Own'] == 'yes'


def test_the_body_of_an_answer_that_is_replaced_is_closed(conf) -> None:
    closed: list[bool] = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    regions = Regions(False)

    def app(environ: Any, start_response: Any) -> Body:
        return Body(regions.app('200 OK')(environ, start_response))

    client = Client(wsgi_filter.Filter(app))
    assert client.get('/').status_code == 503
    assert closed == [True]
    answer = client.head('/')
    assert answer.status_code == 503
    assert answer.data == b''


def test_without_a_request_they_are_waited_for_at_once() -> None:
    regions = Regions(True, True)
    regions.app('200 OK')({}, lambda *_: None)
    assert regions.told == ['sent', 'waited'] * 2


def test_an_answer_that_begins_late_or_is_written_is_passed_on(conf) -> None:
    def late(environ: Any, start_response: Any) -> Any:
        start_response('200 OK', [])
        yield b'late'

    def written(environ: Any, start_response: Any) -> list[bytes]:
        start_response('200 OK', [])(b'written, ')
        return [b'returned']

    for app, expected in (late, b'late'), (written, b'written, returned'):
        answer = Client(wsgi_filter.Filter(app)).get('/')
        assert (answer.status_code, answer.data) == (200, expected)


def test_statements_of_one_request_share_it() -> None:
    with deadline.within(50):
        first = deadline.end(NOBODY_S)
        assert deadline.end(NOBODY_S) == first
        with deadline.until(None):
            assert deadline.remaining(NOBODY_S) is None
        assert deadline.end(NOBODY_S) == first
    assert deadline.end(NOBODY_S) is None


def test_what_is_over_is_over() -> None:
    with deadline.within(-1):
        assert deadline.remaining(NOBODY_S) == 0


def test_without_the_filter_it_begins_in_flask() -> None:
    app = flask.Flask(__name__)
    with app.test_request_context():
        end = deadline.end(NOBODY_S)
        assert end is not None
        assert deadline.end(NOBODY_S) == end
    with app.test_request_context():
        assert deadline.end(NOBODY_S) != end
    assert deadline.end(NOBODY_S) is None


@pytest.mark.parametrize('filtered', [True, False])
def test_a_filter_that_is_missing_is_told_once(conf, caplog, filtered) -> None:
    deadline.tell_of_no_filter.cache_clear()
    app = flask.Flask(__name__)

    @app.route('/')
    def ask() -> str:
        # Also where a part of the request has another end.
        with deadline.until(None):
            assert deadline.end(NOBODY_S) is not None
        return str(deadline.remaining(NOBODY_S))

    served = wsgi_filter.Filter(app.wsgi_app) if filtered else app.wsgi_app
    for _ in range(2):
        assert float(Client(served).get('/').data) > 0
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == deadline.__name__
    ]
    assert len(lines) == (0 if filtered else 1)
    for line in lines:
        assert 'keystone_cassandra_token.wsgi:application' in line


def test_other_threads_have_none() -> None:
    found: list[float | None] = []
    with deadline.within(50):
        thread = threading.Thread(
            target=lambda: found.append(deadline.end(NOBODY_S))
        )
        thread.start()
        thread.join()
    assert found == [None]


#: Loads what is given, and tells whether it takes this process for a server.
_IS_SERVER = """
import importlib, sys
from keystone_cassandra_token.db import deadline
for name in sys.argv[1:]:
    importlib.import_module(name)
print(deadline.is_server())
"""


@pytest.mark.parametrize(
    ('modules', 'expected'),
    [
        (['keystone.server.wsgi'], 'True'),
        (
            [
                'keystone.cmd.manage',
                'keystone.cmd.cli',
                'keystone.cmd.status',
                'keystone_cassandra_token.cmd.main',
                'keystone_cassandra_token.wsgi_filter',
            ],
            'False',
        ),
    ],
)
def test_a_server_is_known_before_its_first_request(
    modules: list[str], expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _IS_SERVER, *modules],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.split()[-1:] == [expected], done.stderr


#: Serves a request without the filter, while a node hangs.
_HUNG = """
import os
import keystone.wsgi.api
from werkzeug.test import Client
answer = Client(keystone.wsgi.api.application).get(
    '/v3/users', headers={'X-Auth-Token': 'kc1_' + 43 * 'A'}
)
print(answer.status_code, flush=True)
os._exit(0)  # the driver would wait for the node
"""


def test_keystones_middleware_does_not_wait_for_each_node(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'keystone.conf'
    with socket.create_server(('127.0.0.1', 0)) as silent:
        path.write_text(
            '[token]\nprovider = cassandra\n'
            '[receipt]\nprovider = cassandra\n'
            '[database]\ncassandra_node_ips = 127.0.0.1\n'
            f'[cassandra]\nport = {silent.getsockname()[1]}\n'
            'connect_timeout = 60\nrequest_deadline = 0.5\n'
        )
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', _HUNG],
            env={**os.environ, 'OS_KEYSTONE_CONFIG_FILES': str(path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.stdout.split()[-1:] == ['503'], done.stderr


def test_servers_find_the_application_in_the_module(tmp_path: Path) -> None:
    """Where they look: uWSGI asks no ``__getattr__`` of a module."""
    path = tmp_path / 'keystone.conf'
    path.write_text(
        '[token]\nprovider = cassandra\n[receipt]\nprovider = cassandra\n'
    )
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-c'),
            'from keystone_cassandra_token import wsgi\n'
            "print(type(vars(wsgi)['application']).__name__)",
        ],
        env=os.environ | {'OS_KEYSTONE_CONFIG_FILES': str(path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'Filter\n', done.stderr
