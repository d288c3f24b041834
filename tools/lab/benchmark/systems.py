# SPDX-License-Identifier: Apache-2.0
"""The systems under test, as one client process sees them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keystone.conf
from cassandra import ConsistencyLevel
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    Session,
)
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory
from keystone.common import manager, password_hashing

from lab.benchmark.clients import Pool
from lab.benchmark.measure import Sample, Series, loop
from lab.benchmark.verdict import BATCH

BOTH = ('cassandra', 'sql')

#: Runs before a loop that are not measured, at most and in seconds.
_WARM_UP = (20, 0.5)
#: Clients that work together begin together, this many seconds after the
#: order was given.
_HEAD_START = 0.05
#: For how long tokens that are used again live: longer than any run.
DAY = 24 * 3600
#: Users in a filled system about whom is asked.
ASKED = 1000
GROUPS_OF_A_USER = 20
HASH = '$2b$12$' + 53 * 'x'


class Call(NamedTuple):
    """An operation that is measured.

    :ivar make: called once in a client, with what it has open and the
        series; returns what is then timed.
    :ivar systems: that have it.
    """

    make: Callable[[Any, Series], Callable[[], object]]
    systems: tuple[str, ...] = BOTH


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a client finds its servers, and what it runs with."""

    plan: argparse.Namespace  # the benchmark's name and options
    name: str  # of the keyspace
    file: str  # the configuration
    contact_points: tuple[str, ...]
    port: int  # of Cassandra's native protocol
    database: str = ''  # SQLAlchemy URL; empty if no SQL is measured
    lifetime: int = DAY  # of the tokens that are issued, seconds
    #: Naive UTC; the time of the youngest revocation.
    reference: datetime.datetime = datetime.datetime.min


class Systems:
    """What a client has open; each at first use."""

    def __init__(self, place: Place, _: int) -> None:
        self.place = place
        self.plan = place.plan
        # As the server configures itself, but without its command line.
        keystone.conf.configure()
        keystone.conf.CONF(
            [], project='keystone', default_config_files=[place.file]
        )
        keystone.conf.set_external_opts_defaults()

    @functools.cached_property
    def bare(self) -> Session:
        """A session of the stock driver with its cheapest rows."""
        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            row_factory=tuple_factory,
        )
        return Cluster(
            self.place.contact_points,
            port=self.place.port,
            connect_timeout=30,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
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


class PlacePool(Pool):
    """Clients of a place: what is run there gets :class:`Systems` first."""

    def __init__(self, place: Place) -> None:
        super().__init__(functools.partial(Systems, place))
        self.place = place


# -- operations of a driver


def asked() -> Iterator[int]:
    """Return the numbers of those who are asked about, mixed, without end."""
    return itertools.cycle(random.Random(1).sample(range(ASKED), ASKED))


def driver(system: str, kind: str) -> Any:
    """Load a driver as Keystone does; one that makes and checks no hashes.

    :param kind: what it is the driver of, as ``token.provider``.
    """
    # By design they take a third of a second, the same in all systems.
    password_hashing.check_password = lambda *_: True
    password_hashing.hash_password = lambda _: HASH
    return manager.load_driver(f'keystone.{kind}', system)


def by_driver(
    kind: str,
    call: Callable[[Any, int], object],
    systems: tuple[str, ...] = BOTH,
) -> Call:
    """Return an operation of a driver.

    :param call: is timed; gets the driver and a number of :func:`asked`.
    """

    def make(_: Systems, series: Series) -> Callable[[], object]:
        loaded = driver(series.system, kind)
        numbers = asked()
        return lambda: call(loaded, next(numbers))

    return Call(make, systems)


def bare(statement: Any, id_of: Callable[[int], str]) -> Call:
    """Return a bare read of the row that the drivers' statement reads.

    :param id_of: returns its id for a number of :func:`asked`.
    """

    def make(systems: Systems, _: Series) -> Callable[[], object]:
        return systems.read(statement, ((id_of(n),) for n in asked()))

    return Call(make, ('bare',))


def calls(benchmark: str) -> dict[str, Call]:
    """Return the operations of a benchmark, by name."""
    module: Any = importlib.import_module(f'lab.benchmark.{benchmark}')
    return module.CALLS


# -- measuring


def measure(
    pool: Pool, series: Series, count: int, seconds: float
) -> list[Sample]:
    """Let clients run an operation, all of them from one moment on.

    It is opened and warmed up first, if it was not; a client that needs longer
    than the others for that begins later.

    :param count: of runs of each client, at most.
    :param seconds: until they end, at most.
    """
    begin = time.monotonic() + _HEAD_START
    return pool.share(
        _measure, [(series, begin, count, seconds)] * series.clients
    )


@functools.cache
def _opened(made: Any, series: Series) -> Callable[[], object]:
    name = series.operation.removesuffix(BATCH)
    operation = calls(made.plan.benchmark)[name].make(made, series)
    loop(operation, *_WARM_UP)
    return operation


def _measure(
    made: Any, series: Series, begin: float, count: int, seconds: float
) -> Sample:
    operation = _opened(made, series)
    time.sleep(max(0.0, begin - time.monotonic()))
    return loop(operation, count, seconds)
