# SPDX-License-Identifier: Apache-2.0
"""Metrics: names and labels, files of several processes, cost when off."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cassandra
import cassandra.cluster
import cassandra.protocol
import command
import keystone.conf
import pytest
from cassandra import ConsistencyLevel
from lab import ports
from prometheus_client.parser import text_string_to_metric_families

import keystone_cassandra_token
from keystone_cassandra_token.cmd import local_checks
from keystone_cassandra_token.cmd import metrics as served
from keystone_cassandra_token.db import cql, metrics, metrics_file, watch
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.findings import State
from keystone_cassandra_token.db.metrics import Kind, Metric, Outcome
from tests import statements, sweep

keystone.conf.configure()

PACKAGE = Path(keystone_cassandra_token.__file__).parent

ALL = {metric.name: (metric,) for metric in metrics.METRICS + served.STATUS}

READ = cql.read('SELECT value FROM schema_setting WHERE name = :name')
CAS = cql.lwt_global('DELETE FROM trust_use WHERE id = :id IF EXISTS')

#: Counts once of everything, then waits to be killed, or ends.
WRITER = """
import sys
from keystone_cassandra_token.db import metrics

metrics.start(sys.argv[1])
metrics.count(metrics.TOKENS, 'issued')
metrics.count(metrics.CLAIMS, 'trust_claim', 'made')
metrics.samplers.append(lambda: [(metrics.CONNECTIONS, 2)])
metrics.current.observe(
    metrics.REQUESTS, ('read', 'trust', 'SELECT', 'ok'), 0.003)
metrics.current.flush()
assert metrics.current.on
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[metrics.Nothing]:
    """What counts in a directory of the test's own."""
    metrics.start(str(tmp_path))
    yield metrics.current
    metrics.start(None)


class Silent:
    """A status that nobody has asked for."""

    values: dict[Any, float] = {}


def samples(directory: Path) -> dict[tuple[str, ...], float]:
    """Return what the command would say, by name and label values."""
    metrics.current.flush()
    collector: Any = served.Collector(str(directory), Silent())
    return {
        (sample.name, *(v for _, v in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in collector.collect()
        for sample in family.samples
    }


@sweep.over(ALL)
def test_names_say_the_unit(metric: Metric) -> None:
    assert re.fullmatch(r'keystone_cassandra_[a-z_]+', metric.full_name)
    assert metric.full_name.endswith('_total') == (metric.kind is Kind.COUNTER)
    assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith(
        '_seconds'
    )
    assert metric.text.endswith('.')


@sweep.over(ALL)
def test_labels_are_bounded(metric: Metric) -> None:
    """Each value comes from an enumeration, or from the list of tables."""
    for label, values in metric.labels.items():
        assert re.fullmatch('[a-z]+', label)
        if values is None:
            assert label == 'table'
        else:
            assert 1 < len(values) <= len(Operation)
    assert metric.labels.keys() <= {
        *('operation', 'table', 'verb', 'outcome', 'result', 'question')
    }


def test_tables_of_labels_are_those_of_the_schema() -> None:
    assert {
        statement.table for statement in statements.collected().values()
    } <= statements.tables().keys()


def test_verbs_and_operations_are_those_of_the_statements() -> None:
    for statement in statements.collected().values():
        labels = (*watch.described((statement,)), 'ok')
        assert metrics.checked(metrics.REQUESTS, labels)
    labels = (*watch.described((READ, READ)), 'ok')
    assert metrics.checked(metrics.REQUESTS, labels)['verb'] == 'BATCH'


@pytest.mark.parametrize(
    ('metric', 'labels'),
    [
        (metrics.TOKENS, ('8f0c1a',)),
        (metrics.TOKENS, ()),
        (metrics.CLAIMS, ('Trust; DROP', 'made')),
        (metrics.REVOCATIONS, ('issued',)),
    ],
)
def test_another_label_is_refused(
    metric: Metric, labels: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r'.'):
        metrics.checked(metric, labels)


def counted() -> Iterator[tuple[str, Metric, list[ast.expr]]]:
    """Yield each place that counts, its metric and its labels."""
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == 'metrics.count'
            ):
                name = ast.unparse(node.args[0]).removeprefix('metrics.')
                yield path.name, getattr(metrics, name), node.args[1:]


def test_what_is_counted_has_labels_that_can_be() -> None:
    found = list(counted())
    assert len(found) > 15
    for where, metric, labels in found:
        assert len(labels) == len(metric.labels), where
        for label, values in zip(labels, metric.labels.values(), strict=True):
            for node in ast.walk(label):
                if isinstance(getattr(node, 'value', None), str):
                    assert values is not None, where
                    assert node.value in values, where


def test_each_metric_is_counted_somewhere() -> None:
    text = ''.join(path.read_text('utf-8') for path in PACKAGE.rglob('*.py'))
    for name, value in vars(metrics).items():
        if isinstance(value, Metric):
            assert value in metrics.METRICS
            assert f'metrics.{name}' in text


@contextlib.contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has counted once of everything."""
    process = subprocess.Popen(
        [sys.executable, '-c', WRITER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def test_processes_add_up(tmp_path: Path) -> None:
    """Counters of one that died count on; its gauges do not."""
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(writer(tmp_path)) for _ in range(3)]
        prefix = metrics.PREFIX
        before = samples(tmp_path)
        assert before[f'{prefix}connections',] == 6
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        found = samples(tmp_path)
    assert found[f'{prefix}tokens_total', 'issued'] == 3
    assert found[f'{prefix}claims_total', 'made', 'trust_claim'] == 3
    assert found[f'{prefix}connections',] == 4
    assert found[f'{prefix}processes',] == 2
    labels = ('read', 'ok', 'trust', 'SELECT')
    assert found[f'{prefix}request_seconds_count', *labels] == 3
    assert found[f'{prefix}request_seconds_sum', *labels] == (
        pytest.approx(0.009)
    )
    buckets = [
        value
        for (name, *_), value in found.items()
        if name == f'{prefix}request_seconds_bucket'
    ]
    assert len(buckets) == len(metrics.BUCKETS) + 1
    assert sorted(set(buckets)) == [0, 3]


def test_workers_that_end_leave_no_more_files(tmp_path: Path) -> None:
    """A new one goes on in the files of one that is gone."""
    prefix = metrics.PREFIX
    files = set()
    for number in range(1, 4):
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(writer(tmp_path))
            found = samples(tmp_path)
            assert found[f'{prefix}tokens_total', 'issued'] == 2 * number
            labels = ('read', 'ok', 'trust', 'SELECT')
            assert found[f'{prefix}request_seconds_count', *labels] == (
                2 * number
            )
            # Of those that live alone.
            assert found[f'{prefix}connections',] == 4
            assert found[f'{prefix}processes',] == 2
            files |= {path.name for path in tmp_path.iterdir()}
    assert len(files) == 2 * len(metrics.Kind)


def test_another_users_files_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root leaves them, who ran a command."""
    (tmp_path / 'gauge_livesum_1.db').touch()

    def opened(path: str, mode: str) -> Any:
        # Of root himself no file is kept.
        if path.endswith('_1.db'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open(path, mode)

    monkeypatch.setattr(metrics_file, 'open', opened, raising=False)
    metrics_file.Slot(str(tmp_path)).open('counter')
    assert (tmp_path / 'counter_2.db').exists()


def test_a_child_has_files_of_its_own(recorder, tmp_path: Path) -> None:
    metrics.count(metrics.TOKENS, 'found')
    child = os.fork()
    if not child:
        metrics.count(metrics.TOKENS, 'found')
        metrics.count(metrics.TOKENS, 'found')
        metrics.current.flush()
        os._exit(0 if metrics.current.on else 1)
    assert os.waitpid(child, 0)[1] == 0
    metrics.count(metrics.TOKENS, 'found')
    metrics.current.flush()
    assert {path.name for path in tmp_path.glob('counter_*')} == {
        'counter_1.db',
        'counter_2.db',
    }
    assert samples(tmp_path)[f'{metrics.PREFIX}tokens_total', 'found'] == 4


def test_many_series_fit(recorder, tmp_path: Path) -> None:
    """The files grow, and are allocated before they are written to."""
    for operation in Operation:
        for outcome in Outcome:
            for table in ('token', 'trust', 'role'):
                recorder.observe(
                    metrics.REQUESTS,
                    (operation.value, table, 'SELECT', outcome.value),
                    0.1,
                )
    recorder.flush()
    assert metrics.current is recorder
    (path,) = tmp_path.glob('histogram_*')
    assert path.stat().st_size > 1 << 19
    name = f'{metrics.PREFIX}request_seconds_count'
    found = [
        value for key, value in samples(tmp_path).items() if key[0] == name
    ]
    assert found == [1] * (3 * len(Operation) * len(Outcome))


def test_a_file_that_is_cut_hides_no_other(recorder, tmp_path: Path) -> None:
    metrics.count(metrics.TOKENS, 'found')
    (tmp_path / 'counter_901.db').write_bytes(b'')
    (tmp_path / 'counter_902.db').write_bytes(b'\xff' * 64)
    (tmp_path / 'gauge_livesum_903.db').write_bytes(b'')
    assert samples(tmp_path)[f'{metrics.PREFIX}tokens_total', 'found'] == 1


def test_a_directory_that_is_none_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / 'absent')
    metrics.start(path)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            metrics.count(metrics.TOKENS, 'found')
            metrics.current.flush()
    assert not metrics.current.on
    (line,) = caplog.messages
    assert f'[cassandra] metrics_dir = {path}' in line
    assert 'No such file' in line


@pytest.mark.parametrize('made', [True, False])
def test_the_doctor_says_what_is_wrong_with_it(
    tmp_path: Path, made: bool
) -> None:
    path = tmp_path / 'metrics'
    if made:
        path.mkdir()
    conf: Any = SimpleNamespace(
        cassandra=SimpleNamespace(metrics_dir=str(path))
    )
    (found,) = local_checks.metrics(conf)
    assert found.state is (State.OK if made else State.FAIL)
    assert str(path) in found.text


def test_off_imports_nothing() -> None:
    code = (
        'import sys\n'
        'from keystone_cassandra_token.db import metrics, store\n'
        'metrics.start(None)\n'
        "metrics.count(metrics.TOKENS, 'found')\n"
        "print('prometheus_client' in sys.modules, metrics.current.on)\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.stdout == 'False False\n', done.stderr


@pytest.mark.parametrize(
    ('statement', 'error', 'outcome'),
    [
        (READ, cassandra.OperationTimedOut(), Outcome.TIMEOUT),
        (READ, cassandra.ReadTimeout('', consistency=1), Outcome.TIMEOUT),
        (CAS, cassandra.OperationTimedOut(), Outcome.UNKNOWN),
        (
            CAS,
            cassandra.Unavailable('', ConsistencyLevel.LOCAL_SERIAL),
            Outcome.UNAVAILABLE,
        ),
        # Its commit: it can be decided.
        (
            CAS,
            cassandra.Unavailable('', ConsistencyLevel.LOCAL_QUORUM),
            Outcome.UNKNOWN,
        ),
        (
            READ,
            cassandra.protocol.OverloadedErrorMessage(0x1001, '', None),
            Outcome.OVERLOADED,
        ),
        (READ, cassandra.InvalidRequest('x'), Outcome.INVALID),
        (
            READ,
            cassandra.cluster.NoHostAvailable('x', {}),
            Outcome.UNAVAILABLE,
        ),
        (
            READ,
            cassandra.cluster.NoHostAvailable(
                'x', {'a': cassandra.OperationTimedOut()}
            ),
            Outcome.TIMEOUT,
        ),
        (READ, ConnectionResetError(), Outcome.UNAVAILABLE),
    ],
)
def test_outcomes(
    statement: cql.Statement, error: BaseException, outcome: Outcome
) -> None:
    assert watch.outcome(statement, error) is outcome


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('127.0.0.1:9505', ('127.0.0.1', 9505)),
        ('[::1]:80', ('::1', 80)),
        ('localhost:65535', ('localhost', 65535)),
        ('9505', None),
        (':9505', None),
        ('::1:9505', None),
        ('127.0.0.1:0', None),
        ('127.0.0.1:65536', None),
        ('127.0.0.1:http', None),
    ],
)
def test_address(text: str, found: tuple[str, int] | None) -> None:
    if found is None:
        with pytest.raises(argparse.ArgumentTypeError, match='is not like'):
            served.address(text)
    else:
        assert served.address(text) == found


def run(folder: Path, *words: str, **options: Any) -> Any:
    made = command.for_nodes(
        folder, ['127.0.0.1'], ports.free_port(), 'ks', cassandra=options
    )
    return made.here('metrics', *words)


def test_wrong_address_is_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, '--listen', '9505')
    assert done.returncode == 2
    assert "'9505' is not like 127.0.0.1:9505" in done.stderr


def test_the_option_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert 'metrics_dir is not set' in command.last_line(done)


def test_the_directory_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, metrics_dir=tmp_path / 'absent')
    assert done.returncode == 1
    assert 'metrics_dir = ' in command.last_line(done)


def test_the_port_is_in_use(tmp_path: Path) -> None:
    with ports.socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        done = run(
            tmp_path, '--listen', f'127.0.0.1:{port}', metrics_dir=tmp_path
        )
    assert done.returncode == 1
    assert f'127.0.0.1 port {port}: Address' in command.last_line(done)


def test_the_text_is_prometheuss(recorder, tmp_path: Path) -> None:
    import prometheus_client

    metrics.count(metrics.TOKENS, 'found')
    metrics.current.flush()
    registry = prometheus_client.CollectorRegistry()
    collector: Any = served.Collector(str(tmp_path), Silent())
    registry.register(collector)
    text = prometheus_client.generate_latest(registry).decode()
    families = {
        family.name: family for family in text_string_to_metric_families(text)
    }
    tokens = families['keystone_cassandra_tokens']
    assert tokens.type == 'counter'
    assert tokens.documentation == metrics.TOKENS.text
