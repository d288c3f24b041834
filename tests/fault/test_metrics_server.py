# SPDX-License-Identifier: Apache-2.0
"""A real Keystone with two workers, and the command that is scraped."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import command
import pytest
from lab import ports
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.people import People
from lab.waiting import until
from prometheus_client.parser import text_string_to_metric_families

from keystone_cassandra_token.cmd import metrics as served
from tests.conftest import RESTARTED
from tests.fault.keystone_servers import Servers

PREFIX = 'keystone_cassandra_'


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    """A node that a test may stop."""
    with Cluster.start(
        own=True, commitlog_sync='batch', java_options=RESTARTED
    ) as cluster:
        yield cluster


def get(port: int, path: str = '/metrics') -> str:
    # Without a proxy, whatever the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f'http://127.0.0.1:{port}{path}', timeout=30) as answer:
        return answer.read().decode()


#: Of a token that nobody has issued.
UNKNOWN = f'kc1_{"A" * 43}'


def scrape(port: int, client: Client, admin: str) -> str:
    """Return the metrics once all that was counted until now is written.

    A worker writes in the order in which it counts: so it is asked for a
    token that is missing, which shows when all before it is written, too.
    """
    marks = total(get(port), 'tokens_total', result='missing')
    for worker in client.workers:
        assert client.validate(admin, UNKNOWN, worker) == 404

    def written() -> str:
        text = get(port)
        missing = total(text, 'tokens_total', result='missing')
        return text if missing == marks + len(client.workers) else ''

    return until(written, 'what the workers counted')


@contextlib.contextmanager
def serving(configuration: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Start the command on a configuration."""
    process = subprocess.Popen(
        [
            *(str(command.PROGRAM), '--config-file', str(configuration)),
            *('metrics', '--listen', f'127.0.0.1:{port}'),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f'Serving http://127.0.0.1:{port}/metrics\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def total(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == PREFIX + name
        and labels.items() <= sample.labels.items()
    )


def test_what_two_workers_did_is_scraped(
    servers: Servers, cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / 'metrics'
    folder.mkdir()
    settings = {
        'cassandra': {
            'metrics_dir': folder,
            'request_timeout': 2,
            'connect_timeout': 2,
        }
    }
    keystone = servers.make(cluster, settings, keyspace='watched')
    keystone.start()
    port = ports.free_port()
    with serving(keystone.configuration, port) as process:
        client = Client(keystone.url, keystone.workers)

        def log_in() -> str:
            return client.log_in(
                'admin', servers.password, **ADMIN_SCOPE
            ).auth_token

        admin = log_in()
        assert set(client.validate_everywhere(admin, admin).values()) == {200}
        before = scrape(port, client, admin)
        assert total(before, 'processes') == keystone.workers
        read = {'operation': 'token_read', 'table': 'token', 'outcome': 'ok'}
        token = log_in()
        assert set(client.validate_everywhere(admin, token).values()) == {200}
        after = scrape(port, client, admin)

        def more(name: str, **labels: str) -> float:
            return total(after, name, **labels) - total(before, name, **labels)

        assert more('tokens_total', result='issued') == 1
        assert more('tokens_total', result='found') >= 2
        # A request that asks for a token twice reads it once.
        assert (
            2
            <= more('request_seconds_count', **read)
            <= (
                more('tokens_total', result='found')
                + more('tokens_total', result='missing')
            )
        )
        written = {'operation': 'token_write', 'verb': 'INSERT'}
        assert more('request_seconds_count', **written) == 1
        assert more('request_seconds_sum', **read) > 0
        assert total(after, 'requests_in_progress') == 0
        assert total(after, 'connections') >= keystone.workers
        assert total(after, 'sessions_total', result='opened') == (
            keystone.workers
        )

        answer = client.request('DELETE', '/auth/tokens', admin, token)
        assert answer.status_code == 204
        assert client.validate(admin, token) == 404
        revoked = scrape(port, client, admin)
        # Keystone makes two events of it.
        assert total(revoked, 'revocations_total') > 0

        people = People(client, admin)
        for question in served.QUESTIONS:
            assert total(revoked, 'answered', question=question) == 1
        needed = total(revoked, 'schema_version_needed')
        assert needed == total(revoked, 'schema_version') > 0

        for secret in (
            *(admin, token, servers.password, people.project),
            *people.ids.values(),
            *people.passwords.values(),
            *('admin', 'alice', str(folder)),
        ):
            assert secret not in revoked
        assert not re.search('[0-9a-f]{32}|kc1_', revoked)
        with pytest.raises(urllib.error.HTTPError, match='404'):
            get(port, '/etc/passwd')

        cluster.nodes[0].kill()
        assert client.validate(admin, admin) == 503

        def seen() -> bool:
            text = get(port)
            away = {'outcome': 'unavailable'}
            return total(text, 'request_seconds_count', **away) > 0

        assert total(revoked, 'request_seconds_count') == (
            total(revoked, 'request_seconds_count', outcome='ok')
        )
        until(seen, 'a request that is counted as unavailable')
        cluster.nodes[0].start()

        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert 'Traceback' not in process.stderr.read()
