# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra metrics``: serve metrics to Prometheus.

Adds up what the processes of this machine have written to ``[cassandra]
metrics_dir``, and adds what one process can ask for all: schema version,
revocation TTL, clocks, and whether a unique name could be claimed now.
"""

from __future__ import annotations

import argparse
import glob
import http.server
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import prometheus_client
import prometheus_client.core
import prometheus_client.multiprocess
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import deadline, errors, metrics, nodes
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.metrics import Kind, Metric
from keystone_cassandra_token.db.metrics_file import File, is_live
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.schema import files, version

DEFAULT = '127.0.0.1:9505'

#: Seconds between two rounds of questions to Cassandra.
_EVERY = 15.0
#: Seconds for the questions of a round, and for the first one before the
#: server begins to answer.
_PATIENCE = 5.0

QUESTIONS = ('connection', 'schema', 'revocation_ttl', 'claim', 'clocks')

ANSWERED = Metric(
    'answered',
    Kind.GAUGE,
    'Whether this command was answered: 1, or 0. For claim: whether a unique'
    ' name could be claimed now.',
    {'question': frozenset(QUESTIONS)},
)
ASKED = Metric(
    'asked_timestamp_seconds', Kind.GAUGE, 'When this command asked last.'
)
SCHEMA = Metric('schema_version', Kind.GAUGE, 'Schema version here.')
SCHEMA_NEEDED = Metric(
    'schema_version_needed',
    Kind.GAUGE,
    'Schema version that this release needs.',
)
TTL = Metric(
    'revocation_ttl_seconds',
    Kind.GAUGE,
    'How long a revocation is kept at least.',
)
CLAIM = Metric(
    'claim_probe_seconds',
    Kind.GAUGE,
    'How long agreement over all datacenters took: a serial read.',
)
SKEW = Metric(
    'clock_skew_seconds',
    Kind.GAUGE,
    "Largest difference of a node's clock from that of this machine.",
)
PROCESSES = Metric(
    'processes', Kind.GAUGE, 'Processes that write metrics and are alive.'
)

STATUS = (ANSWERED, ASKED, SCHEMA, SCHEMA_NEEDED, TTL, CLAIM, SKEW, PROCESSES)


def add_command(parser: Any) -> None:
    """Add the options to the parser of ``metrics``."""
    parser.add_argument(
        '--listen',
        type=address,
        default=DEFAULT,
        metavar='ADDRESS:PORT',
        help=f'where to serve /metrics; default: {DEFAULT}',
    )
    parser.set_defaults(run=run)


def address(text: str) -> tuple[str, int]:
    """Return host and port from ``127.0.0.1:9505`` or ``[::1]:9505``.

    :raises argparse.ArgumentTypeError: if it is not like that.
    """
    found = re.fullmatch(r'(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d+)', text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise argparse.ArgumentTypeError(f'{text!r} is not like {DEFAULT}')
    return found[1] or found[2], int(found[3])


def run(conf: cfg.ConfigOpts) -> int:
    """Serve until the process is told to stop.

    :raises ConfigurationError: if it cannot.
    """
    options.check(conf)
    directory = _directory(conf)
    status = Status(conf)
    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector(directory, status))
    wanted: tuple[str, int] = conf.command.listen
    with _server(*wanted, registry) as server:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            status.start()
            host, port = server.server_address[:2]
            shown = f'[{host!s}]' if ':' in str(host) else str(host)
            print(f'Serving http://{shown}:{port}/metrics', flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
        finally:
            status.stop()
    return 0


def _directory(conf: cfg.ConfigOpts) -> str:
    directory = conf.cassandra.metrics_dir
    if not directory:
        raise options.ConfigurationError(
            '[cassandra] metrics_dir is not set: the servers count nothing.'
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        raise options.ConfigurationError(
            f'[cassandra] metrics_dir = {directory} is no directory that can'
            ' be read.'
        )
    return str(directory)


class Status:
    """What is asked of Cassandra, again and again, in a thread of its own.

    So that a scrape never waits for a node.

    :ivar values: by metric and labels, of the last round.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._store = Store(conf)
        self._reached: Connection | None = None
        self._asked = threading.Event()
        self._stopped = threading.Event()
        self.values: dict[tuple[Metric, tuple[str, ...]], float] = {}

    def start(self) -> None:
        """Begin, and wait a moment for the first round."""
        threading.Thread(target=self._run, daemon=True).start()
        self._asked.wait(_PATIENCE)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()
        self._store.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.values = self.ask()
            self._asked.set()
            self._stopped.wait(_EVERY)

    def ask(self) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """Return the values of one round."""
        found: dict[tuple[Metric, tuple[str, ...]], float] = {
            (SCHEMA_NEEDED, ()): files.latest()
        }
        asks: dict[str, Callable[[], Iterable[tuple[Metric, float]]]] = {
            'connection': self._connection,
            'schema': self._schema,
            'revocation_ttl': self._ttl,
            'claim': self._claim,
            'clocks': self._clocks,
        }
        for question in QUESTIONS:
            answered = False
            try:
                with deadline.within(_PATIENCE):
                    for metric, value in asks[question]():
                        found[metric, ()] = value
                        answered = True
            except (errors.StoreUnavailable, *errors.DRIVER_ERRORS):
                answered = False
            except Exception as error:  # one must not end the others
                answered = False
                print(
                    f'keystone-cassandra: {question}: {type(error).__name__}',
                    file=sys.stderr,
                )
            found[ANSWERED, (question,)] = float(answered)
        return found

    def _connection(self) -> Iterator[tuple[Metric, float]]:
        self._store.sessions.get()
        yield ASKED, time.time()

    def _schema(self) -> Iterator[tuple[Metric, float]]:
        rows = version.execute(self._store.sessions.get(), version.VERSIONS)
        yield SCHEMA, max((row['level'] for row in rows), default=0)

    def _ttl(self) -> Iterator[tuple[Metric, float]]:
        ttl = revocation_ttl.RevocationTTL(self._store)
        yield TTL, ttl.read(revocation_ttl.GET, revocation_ttl.TTL)

    def _claim(self) -> Iterator[tuple[Metric, float]]:
        # What a claim needs, and it leaves nothing behind.
        ttl = revocation_ttl.RevocationTTL(self._store)
        began = time.perf_counter()
        ttl.read(revocation_ttl.SETTLE, revocation_ttl.TTL)
        yield CLAIM, time.perf_counter() - began

    def _clocks(self) -> Iterator[tuple[Metric, float]]:
        connection = self._store.sessions.get()
        if self._reached is not connection:
            nodes.reach_all(connection)
            self._reached = connection
        skews = []
        for node in nodes.nodes(connection):
            if node.up:
                try:
                    skews.append(abs(nodes.skew(connection, node).seconds))
                except errors.DRIVER_ERRORS:
                    continue  # the others tell
        if skews:
            yield SKEW, max(skews)


class Collector:
    """What prometheus_client asks for all metrics."""

    def __init__(self, directory: str, status: Status) -> None:
        self._directory = directory
        self._status = status

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of all processes, then the status."""
        found, alive = _readable(self._directory)
        yield from sorted(
            prometheus_client.multiprocess.MultiProcessCollector.merge(found),
            key=lambda metric: str(metric.name),
        )
        values = {**self._status.values, (PROCESSES, ()): float(alive)}
        for metric in STATUS:
            family = prometheus_client.core.GaugeMetricFamily(
                metric.full_name, metric.text, labels=tuple(metric.labels)
            )
            for (of, labels), value in values.items():
                if of is metric:
                    metrics.checked(metric, labels)
                    family.add_metric(labels, value)
            yield family


def _readable(directory: str) -> tuple[list[str], int]:
    """Return the files to add up, and how many processes are alive.

    Gauges of a process that has died count no more; its counters do.
    """
    found = []
    alive = 0
    for path in sorted(glob.glob(os.path.join(directory, '*.db'))):
        try:
            if os.path.basename(path).startswith('gauge_'):
                if not is_live(path):
                    continue
                alive += 1
            # One that is being made, or was cut, must not hide the others.
            for _ in File.read_all_values_from_file(path):
                pass
        except (OSError, RuntimeError, ValueError, struct.error):
            continue
        found.append(path)
    return found, alive


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = 10
    server_version = 'keystone-cassandra'
    sys_version = ''
    registry: Any

    def do_GET(self) -> None:
        if self.path.partition('?')[0] != '/metrics':
            self.send_error(404)
            return
        body = prometheus_client.generate_latest(self.registry)
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; version=0.0.4')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no fault."""


def _server(host: str, port: int, registry: Any) -> _Server:
    handler = type('Handler', (_Handler,), {'registry': registry})
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type('Server', (_Server,), {'address_family': family})
        server: _Server = kind((host, port), handler)
    except OSError as error:
        raise options.ConfigurationError(
            f'--listen: {host} port {port}: {error.strerror or error}.'
        ) from None
    return server
