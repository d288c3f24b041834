# SPDX-License-Identifier: Apache-2.0
"""Metrics: what is counted, and the files that hold it.

Off unless :func:`start` names a directory; then nothing is imported and
:func:`count` does nothing.  Each process writes files of its own there, in the
format of prometheus_client's multi-process mode, and
``keystone-cassandra metrics`` adds them up.

Not by prometheus_client's own classes: one environment variable, read when the
library is imported, makes all of them write files, those of other parts of
Keystone too, and in a directory of which this package knows nothing.  It names
files by process and keeps those of processes that have ended; its function
mark_process_dead() removes their gauges alone.

All labels are bounded: classes of operations, verbs, outcomes, tables.
"""

from __future__ import annotations

import atexit
import bisect
import collections
import dataclasses
import enum
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oslo_log import log

from keystone_cassandra_token.db.consistency import Operation

LOG = log.getLogger(__name__)

PREFIX = 'keystone_cassandra_'

#: Upper ends of the histogram's buckets, seconds.
BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_ENDS = (*(str(end) for end in BUCKETS), '+Inf')


class Outcome(enum.Enum):
    """What a request to Cassandra ended with."""

    OK = 'ok'
    UNAVAILABLE = 'unavailable'
    TIMEOUT = 'timeout'
    OVERLOADED = 'overloaded'
    UNKNOWN = 'unknown'
    INVALID = 'invalid'


class Verb(enum.Enum):
    """What a request does."""

    SELECT = 'SELECT'
    INSERT = 'INSERT'
    UPDATE = 'UPDATE'
    DELETE = 'DELETE'
    BATCH = 'BATCH'


class Kind(enum.Enum):
    """Kinds of metrics, as Prometheus calls them."""

    COUNTER = 'counter'
    GAUGE = 'gauge'
    HISTOGRAM = 'histogram'


#: Seconds between two times that what was counted is written.
_EVERY = 1.0
#: What is noted at most until then.
_MOST = 10_000

#: The tables of the keyspace: what statements name.
TABLE = re.compile(r'[a-z][a-z0-9_]*')

_OPERATION = frozenset(operation.value for operation in Operation)


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """A metric.

    :ivar name: without the prefix; a counter's without ``_total``.
    :ivar labels: the values that each label can have; None for the tables.
    """

    name: str
    kind: Kind
    text: str
    labels: Mapping[str, frozenset[str] | None] = dataclasses.field(
        default_factory=dict
    )

    @property
    def full_name(self) -> str:
        """The name as Prometheus stores it."""
        total = '_total' if self.kind is Kind.COUNTER else ''
        return f'{PREFIX}{self.name}{total}'


def _result(*values: str) -> dict[str, frozenset[str] | None]:
    return {'result': frozenset(values)}


REQUESTS = Metric(
    'request_seconds',
    Kind.HISTOGRAM,
    'Requests to Cassandra, by how long their answers took.',
    {
        'operation': _OPERATION,
        'table': None,
        'verb': frozenset(verb.value for verb in Verb),
        'outcome': frozenset(outcome.value for outcome in Outcome),
    },
)
UNDER_WAY = Metric(
    'requests_in_progress',
    Kind.GAUGE,
    'Requests to Cassandra that are not yet answered.',
)
RETRIES = Metric(
    'retries',
    Kind.COUNTER,
    'Requests that were sent once more.',
    {'operation': _OPERATION},
)
SPECULATIVE_WINS = Metric(
    'speculative_wins',
    Kind.COUNTER,
    'Requests that the second node, asked as well, has answered first.',
    {'operation': _OPERATION},
)
CONDITIONAL_WRITES = Metric(
    'conditional_writes',
    Kind.COUNTER,
    'Conditional writes by what became of them.',
    {
        'operation': _OPERATION,
        'table': None,
        **_result('applied', 'refused', 'unknown'),
    },
)
CONTENTION = Metric(
    'contention',
    Kind.COUNTER,
    'Attempts at a change that were lost to another, and changes given up.',
    _result('lost', 'given_up'),
)
CLAIMS = Metric(
    'claims',
    Kind.COUNTER,
    'Claims of unique names.',
    {'table': None, **_result('made', 'taken', 'taken_over')},
)
TRUST_USES = Metric(
    'trust_uses',
    Kind.COUNTER,
    'Uses of trusts.',
    _result('unlimited', 'consumed', 'refused', 'contended'),
)
TOKENS = Metric(
    'tokens',
    Kind.COUNTER,
    'Tokens that were issued, found and not found.',
    _result('issued', 'found', 'missing'),
)
ESCALATIONS = Metric(
    'escalations',
    Kind.COUNTER,
    'What was not found here and sought in other datacenters.',
    {'outcome': frozenset(('found', 'missing', 'failed', 'held', 'refused'))},
)
REVOCATIONS = Metric(
    'revocations', Kind.COUNTER, 'Revocation events that were written.'
)
UNCONFIRMED = Metric(
    'revocations_unconfirmed',
    Kind.COUNTER,
    'Revocations of the strict mode that others did not confirm in time.',
)
CHANGES_FOLLOWED = Metric(
    'changes_followed',
    Kind.COUNTER,
    'Looks at the logs of other datacenters that found changes of a table.',
    {'table': None},
)
CACHES_DROPPED = Metric(
    'caches_dropped',
    Kind.COUNTER,
    'Times that all caches were dropped, since changes may have been missed.',
)
SESSIONS = Metric(
    'sessions',
    Kind.COUNTER,
    'Sessions with the cluster.',
    _result('opened', 'replaced', 'failed'),
)
CONNECTIONS = Metric(
    'connections', Kind.GAUGE, 'Open connections to the nodes.'
)

METRICS = (
    REQUESTS,
    UNDER_WAY,
    RETRIES,
    SPECULATIVE_WINS,
    CONDITIONAL_WRITES,
    CONTENTION,
    CLAIMS,
    TRUST_USES,
    TOKENS,
    ESCALATIONS,
    REVOCATIONS,
    UNCONFIRMED,
    CHANGES_FOLLOWED,
    CACHES_DROPPED,
    SESSIONS,
    CONNECTIONS,
)


class Nothing:
    """Counts nothing."""

    on = False

    def add(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Add one to a counter."""

    def observe(
        self, metric: Metric, labels: tuple[str, ...], seconds: float
    ) -> None:
        """Add one to a histogram."""

    def flush(self) -> None:
        """Write what was counted."""

    def stop(self) -> None:
        """Write what was counted, and nothing more."""


class Recorder(Nothing):
    """Counts in this process's files, opened at the first use.

    Whoever counts notes it in memory; a thread writes it each second.  So it
    costs a request next to nothing.  A process that is killed loses the last
    second.  A child after a fork has files and a thread of its own.
    """

    on = True

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._slot: Any = None
        self.begin()

    def begin(self) -> None:
        """Forget the files: they are a parent's, or there are none yet."""
        # A new lock too: another thread may have held it during the fork.
        self._lock = threading.Lock()
        self._pid = os.getpid()
        if self._slot is not None:
            self._slot.leave()
        self._slot = None
        self._files: dict[Kind, Any] = {}
        self._values: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
        self._noted: collections.deque[
            tuple[Metric, tuple[str, ...], float]
        ] = collections.deque()
        self._writes = False
        self._stopped = False

    def add(self, metric: Metric, labels: tuple[str, ...]) -> None:
        self.observe(metric, labels, 1.0)

    def observe(
        self, metric: Metric, labels: tuple[str, ...], seconds: float
    ) -> None:
        self._noted.append((metric, labels, seconds))
        if not self._writes or len(self._noted) > _MOST:
            self._begin_writing()

    def _begin_writing(self) -> None:
        if self._pid != os.getpid():
            self.begin()  # forked by who does not tell Python
        if self._writes:  # the thread does not get its turn
            self.flush()
            return
        self._writes = True
        threading.Thread(
            target=self._write, name='metrics', daemon=True
        ).start()

    def _write(self) -> None:
        while not self._stopped and self._pid == os.getpid():
            self.flush()
            time.sleep(_EVERY)

    def flush(self) -> None:
        with self._lock:
            try:
                while self._noted:
                    self._store(*self._noted.popleft())
                for sampler in samplers:
                    for metric, value in sampler():
                        found = self._found(metric, ())
                        found[2](found[0], value, 0.0)
            except Exception as error:
                self._give_up(error)

    def stop(self) -> None:
        self.flush()
        self._stopped = True

    def _store(
        self, metric: Metric, labels: tuple[str, ...], amount: float
    ) -> None:
        found = self._found(metric, labels)
        if metric.kind is Kind.HISTOGRAM:
            bucket = found[bisect.bisect_left(BUCKETS, amount)]
            bucket[1] += 1
            bucket[2](bucket[0], bucket[1], 0.0)
            found = found[-1]
        found[1] += amount
        found[2](found[0], found[1], 0.0)

    def _found(self, metric: Metric, labels: tuple[str, ...]) -> list[Any]:
        found = self._values.get((metric.name, labels))
        if found is None:
            found = self._made(metric, labels)
            self._values[metric.name, labels] = found
        return found

    def _made(self, metric: Metric, labels: tuple[str, ...]) -> list[Any]:
        """Return a value: key, number and what writes it.

        Of a histogram one for each bucket, and one for the sum.
        """
        named = checked(metric, labels)
        file = self._file(metric.kind)
        if metric.kind is not Kind.HISTOGRAM:
            return _value(file, metric, metric.full_name, named)
        name = metric.full_name
        return [
            *(
                _value(file, metric, f'{name}_bucket', {**named, 'le': end})
                for end in _ENDS
            ),
            _value(file, metric, f'{name}_sum', named),
        ]

    def _file(self, kind: Kind) -> Any:
        file = self._files.get(kind)
        if file is None:
            if self._slot is None:
                from keystone_cassandra_token.db.metrics_file import Slot

                self._slot = Slot(self.directory)
            file = self._files[kind] = self._slot.open(kind.value)
        return file

    def _give_up(self, error: Exception) -> None:
        """Count nothing from now on: a request must not fail by it."""
        global current
        self._stopped = True
        if current is self:
            self._noted.clear()
            LOG.error(
                '[cassandra] metrics_dir = %s: this process writes no'
                ' metrics: %s. Correct it, and restart Keystone.',
                self.directory,
                getattr(error, 'strerror', None) or repr(error),
            )
            current = OFF


def _value(
    file: Any, metric: Metric, sample: str, labels: Mapping[str, str]
) -> list[Any]:
    # As prometheus_client's mmap_key, whose arguments change.
    key = json.dumps(
        [PREFIX + metric.name, sample, labels, metric.text], sort_keys=True
    )
    return [key, file.read_value(key)[0], file.write_value]


def checked(metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
    """Return labels by name.

    :raises ValueError: if a value is none that its label can have.
    """
    named = dict(zip(metric.labels, labels, strict=True))
    for label, value in named.items():
        allowed = metric.labels[label]
        if not (
            TABLE.fullmatch(value) if allowed is None else value in allowed
        ):
            raise ValueError(f'{metric.name}: {label} = {value}')
    return named


OFF = Nothing()

#: What counts.
current = OFF

#: Tell what gauges show now; asked each second.
samplers: list[Callable[[], Iterable[tuple[Metric, float]]]] = []


def start(directory: str | None) -> None:
    """Count in files of a directory; None counts nothing."""
    global current
    if directory and getattr(current, 'directory', None) == directory:
        return
    current.stop()
    current = Recorder(directory) if directory else OFF


def count(metric: Metric, *labels: str) -> None:
    """Add one to a counter."""
    current.add(metric, labels)


def problem(directory: str) -> str | None:
    """Return what is wrong with a directory, None if it can be used."""
    if not os.path.isdir(directory):
        return 'is no directory: make it, writable for Keystone alone.'
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return 'is not writable and readable for this user.'
    return None


def _after_fork() -> None:
    if isinstance(current, Recorder):
        current.begin()


@atexit.register
def _at_end() -> None:
    current.flush()


os.register_at_fork(after_in_child=_after_fork)
