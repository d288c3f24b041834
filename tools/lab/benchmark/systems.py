# SPDX-License-Identifier: Apache-2.0
"""The systems under test, as one client process sees them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import cassandra.cluster
import cassandra.policies
import cassandra.query
import keystone.conf

from lab.benchmark.clients import wait_until
from lab.benchmark.measure import Sample, Series, loop
from lab.benchmark.verdict import BATCH

BOTH = ('cassandra', 'sql')

#: Runs before a loop that are not measured, at most and in seconds.
_WARM_UP = (20, 0.5)
#: For how long tokens that are used again live: longer than any run.
DAY = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Call:
    """An operation that is measured.

    :ivar make: called once in a client, with what it has open and the
        series; returns what is then timed.
    :ivar systems: that have it.
    """

    make: Callable[[Any, Series], Callable[[], object]]
    systems: tuple[str, ...] = BOTH


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a client finds its servers, and what it runs with.

    :ivar plan: the benchmark's name and options.
    :ivar name: of the keyspace.
    :ivar file: the configuration.
    :ivar contact_points: addresses of Cassandra's nodes.
    :ivar port: of Cassandra's native protocol.
    :ivar database: SQLAlchemy URL; empty if no SQL is measured.
    :ivar lifetime: of the tokens that are issued, seconds.
    :ivar reference: naive UTC; the time of the youngest revocation.
    """

    plan: argparse.Namespace
    name: str
    file: str
    contact_points: tuple[str, ...]
    port: int
    database: str = ''
    lifetime: int = DAY
    reference: datetime.datetime = datetime.datetime.min


class Systems:
    """What a client has open; each at first use."""

    def __init__(self, place: Place, number: int = 0) -> None:
        self.place = place
        self.plan = place.plan
        self.number = number
        # As the server configures itself, but without its command line.
        keystone.conf.configure()
        keystone.conf.CONF(
            [],
            project='keystone',
            default_config_files=[place.file],
        )
        keystone.conf.set_external_opts_defaults()

    @functools.cached_property
    def bare(self) -> cassandra.cluster.Session:
        """A session of the stock driver with its cheapest rows."""
        profile = cassandra.cluster.ExecutionProfile(
            load_balancing_policy=cassandra.policies.TokenAwarePolicy(
                cassandra.policies.DCAwareRoundRobinPolicy()
            ),
            consistency_level=cassandra.ConsistencyLevel.LOCAL_QUORUM,
            row_factory=cassandra.query.tuple_factory,
        )
        return cassandra.cluster.Cluster(
            self.place.contact_points,
            port=self.place.port,
            connect_timeout=30,
            execution_profiles={
                cassandra.cluster.EXEC_PROFILE_DEFAULT: profile
            },
        ).connect()

    def read(
        self, statement: Any, keys: Iterable[tuple[Any, ...]]
    ) -> Callable[[], list[Any]]:
        """Return a bare read of rows that the drivers' statement reads.

        :param keys: values of the markers, without end.
        """
        prepared = self.bare.prepare(statement.text(self.place.name))
        coming = iter(keys)
        return lambda: self.bare.execute(prepared, next(coming)).all()


def calls(benchmark: str) -> dict[str, Call]:
    """Return the operations of a benchmark, by name."""
    found: dict[str, Call] = importlib.import_module(
        f'lab.benchmark.{benchmark}'
    ).CALLS
    return found


@functools.cache
def _opened(made: Any, series: Series) -> Callable[[], object]:
    name = series.operation.removesuffix(BATCH)
    operation = calls(made.plan.benchmark)[name].make(made, series)
    loop(operation, *_WARM_UP)
    return operation


def prepare(made: Any, series: Series) -> None:
    """Open an operation and warm it up; what a client does first."""
    _opened(made, series)


def run(
    made: Any, begin: float, series: Series, count: int, seconds: float
) -> Sample:
    """Run an operation from the moment ``begin`` on; what a client does.

    What is opened for it first, and some runs to warm up, are not measured;
    a client that needs longer than the others for that begins later.
    """
    operation = _opened(made, series)
    wait_until(begin)
    return loop(operation, count, seconds)
