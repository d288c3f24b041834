# SPDX-License-Identifier: Apache-2.0
"""Real Keystone servers for the tests of faults, quickly made."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command
from keystoneauth1 import exceptions
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.server import (
    ALL_DRIVERS,
    CASSANDRA_DRIVERS,
    Keystone,
    Settings,
    merge,
    points_at,
)

from tests import awkward
from tests.conftest import quick_schema

_QUICK: Settings = {
    'identity': {'password_hash_rounds': 4},
    'token': {'caching': False},
}

MakeKeystone = Callable[..., Keystone]


class Servers:
    """Makes Keystones that share what a bootstrap leaves.

    :param directory: for the files of all.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.password = awkward.secret()
        self._made: list[Keystone] = []
        self._keyspaces: set[str] = set()
        self._number = 0
        self._template = Keystone(directory / 'template', _QUICK)
        self._template.bootstrap(self.password)
        self._template.stop()

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
        if keystone.database and self._template.database:
            shutil.copyfile(self._template.database, keystone.database)
        if schema and keyspace not in self._keyspaces:
            quick_schema(command.configuration(keystone.configuration))
            # A cluster of somebody else's is never restarted.
            for node in cluster.nodes if cluster and cluster.directory else ():
                node.nodetool('flush')  # as RESTARTED wants it
            self._keyspaces.add(keyspace)
        return keystone

    def stop(self) -> None:
        """Stop all that run."""
        for keystone in self._made:
            keystone.stop()
        self._made.clear()


@contextlib.contextmanager
def all_on_cassandra(
    cluster: Cluster, directory: Path, password: str, *several: Settings
) -> Iterator[Keystone]:
    """Serve a Keystone that has everything in a keyspace of its own.

    :param password: of the user ``admin``.
    :param several: further settings.
    """
    keyspace = f'test_{uuid.uuid4().hex[:12]}'
    keystone = Keystone(
        directory,
        merge(ALL_DRIVERS, points_at(cluster, keyspace), _QUICK, *several),
        sql=False,
    )
    try:
        make_schema(keystone)
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


def servers_in(directory: Path) -> Iterator[Servers]:
    """Yield servers and stop them all, as a fixture does."""
    servers = Servers(directory)
    try:
        yield servers
    finally:
        servers.stop()
