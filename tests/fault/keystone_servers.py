# SPDX-License-Identifier: Apache-2.0
"""Real Keystone servers for the tests of faults, quickly made."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
from keystoneauth1 import exceptions
from lab import ports
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.schema import quick_schema
from lab.server import (
    ALL_DRIVERS,
    CASSANDRA_DRIVERS,
    Keystone,
    Settings,
    merge,
    points_at,
    write_private,
)

from tests import awkward
from tests.conftest import RESTARTED

_QUICK: Settings = {
    'identity': {'password_hash_rounds': 4},
    'token': {'caching': False},
}

MakeKeystone = Callable[..., Keystone]


@dataclasses.dataclass(frozen=True)
class Bootstrapped:
    """What a bootstrap leaves in SQL, to be copied.

    :ivar password: of the user ``admin``.
    """

    database: Path
    password: str


def bootstrapped(directory: Path) -> Bootstrapped:
    """Return what one bootstrap leaves, done by the first who asks.

    :param directory: all who ask with the same one share it.
    """
    directory.mkdir(exist_ok=True)
    told = directory / 'password'
    database = directory / 'bootstrapped.db'
    with ports.locked(str(directory / 'lock')):
        if not told.exists():
            template = Keystone(directory / 'template', _QUICK)
            password = awkward.secret()
            template.bootstrap(password)
            template.stop()
            assert template.database is not None
            template.database.replace(database)
            write_private(told, password)
    return Bootstrapped(database, told.read_text())


class Servers:
    """Makes Keystones that share what a bootstrap leaves.

    :param directory: for the files of all.
    :param template: what each has in SQL at first.
    """

    def __init__(self, directory: Path, template: Bootstrapped) -> None:
        self._directory = directory
        self._template = template
        self.password = template.password
        self._made: list[Keystone] = []
        self._keyspaces: set[str] = set()
        self._number = 0

    def make(
        self,
        cluster: Cluster | None,
        *several: Settings,
        keyspace: str = 'keystone',
        schema: bool = True,
        **options: Any,
    ) -> Keystone:
        """Return a Keystone on our drivers, not started.

        :param cluster: None leaves the contact points unset.
        :param several: further settings.
        :param schema: make the keyspace and its tables, unless an earlier
            call has.
        :param options: as :class:`Keystone` takes them.
        """
        settings = merge(_QUICK, CASSANDRA_DRIVERS)
        if cluster is not None:
            settings = merge(settings, points_at(cluster, keyspace))
        # Never the same again: each has a log of its own.
        self._number += 1
        keystone = Keystone(
            self._directory / f'keystone{self._number}',
            merge(settings, *several),
            **options,
        )
        self._made.append(keystone)
        if keystone.database:
            shutil.copyfile(self._template.database, keystone.database)
        if schema and keyspace not in self._keyspaces:
            quick_schema(command.configuration(keystone.configuration))
            if cluster and set(RESTARTED) <= {*cluster.shape.java_options}:
                for node in cluster.nodes:
                    node.nodetool('flush')
            self._keyspaces.add(keyspace)
        return keystone

    def stop(self) -> None:
        """End all that run: at once, as nobody looks at them any more."""
        for keystone in self._made:
            keystone.kill()
        self._made.clear()


@contextlib.contextmanager
def all_on_cassandra(
    cluster: Cluster,
    directory: Path,
    password: str,
    *several: Settings,
    by_command: bool = False,
) -> Iterator[Keystone]:
    """Serve a Keystone that has everything in a keyspace of its own.

    :param password: of the user ``admin``.
    :param several: further settings.
    :param by_command: make the keyspace and its tables as an operator does,
        and not sooner.
    """
    keyspace = f'test_{uuid.uuid4().hex[:12]}'
    keystone = Keystone(
        directory,
        merge(ALL_DRIVERS, points_at(cluster, keyspace), _QUICK, *several),
        sql=False,
    )
    try:
        if by_command:
            make_schema(keystone)
        else:
            quick_schema(command.configuration(keystone.configuration))
        keystone.bootstrap(password)
        keystone.start()
        yield keystone
    finally:
        keystone.stop()
        with cluster.connect() as session:
            session.default_timeout = 60
            session.execute(f'DROP KEYSPACE IF EXISTS {keyspace}')


def make_schema(keystone: Keystone) -> None:
    """Make the keyspace and its tables, as an operator does."""
    keystone.run('keystone-cassandra', 'keyspace', 'create')
    keystone.run('keystone-cassandra', 'schema', 'apply')


def login_status(
    client: Client, password: str, worker: str | None = None
) -> int:
    """Return the HTTP status of logging in as admin; 201 if it works."""
    try:
        client.log_in('admin', password, worker, **ADMIN_SCOPE)
    except exceptions.HttpError as error:
        return int(error.http_status)
    return 201


def outages(keystone: Keystone) -> list[str]:
    """Return the log lines that tell of an outage."""
    return [
        line
        for line in keystone.log().splitlines()
        if 'Requests that need it are answered with 503' in line
    ]


def servers_in(directory: Path, template: Bootstrapped) -> Iterator[Servers]:
    """Yield servers and stop them all, as a fixture does."""
    servers = Servers(directory, template)
    try:
        yield servers
    finally:
        servers.stop()
