# SPDX-License-Identifier: Apache-2.0
"""The systems under test, as one client process sees them."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cassandra.cluster
import cassandra.policies
import cassandra.query
import keystone.conf
from cryptography.fernet import Fernet
from keystone.models import revoke_model
from keystone.revoke.backends import base as revoke_base
from keystone.revoke.backends import sql as sql_revoke
from keystone.token.providers.fernet import core as fernet

from keystone_cassandra_token.drivers.token import opaque_ids, revoke
from keystone_cassandra_token.drivers.token import provider as token
from lab import LabError
from lab.benchmark import events
from lab.benchmark.clients import wait_until
from lab.benchmark.measure import Sample, loop

#: Tokens that the loops go through, so that none is asked for twice in a
#: row; also the live tokens of a key range that is read.
TOKENS = 1000

#: Runs before a loop that are not measured, at most and in seconds.
_WARM_UP = (20, 0.5)

#: A token that lives as long as Keystone's default: seconds.
LIFETIME = 3600


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a client finds its servers, and the options it runs with.

    :ivar directory: for the configuration file and the Fernet keys.
    :ivar name: of the keyspace, and of the file.
    :ivar contact_points: addresses of Cassandra's nodes.
    :ivar port: of Cassandra's native protocol.
    :ivar database: SQLAlchemy URL; empty if no SQL is measured.
    :ivar allow_expired: ``[token] allow_expired_window``, seconds.
    """

    directory: str
    name: str
    contact_points: tuple[str, ...]
    port: int
    database: str = ''
    allow_expired: int = 48 * 3600

    @property
    def file(self) -> str:
        """Path of the configuration file."""
        return os.path.join(self.directory, f'{self.name}.conf')

    def write(self) -> None:
        """Write the configuration file and the keys."""
        keys = Path(self.directory, 'keys')
        if not keys.exists():
            keys.mkdir(mode=0o700)
            for name in ('0', '1'):
                key = keys / name
                key.touch(0o600)
                key.write_bytes(Fernet.generate_key())
        text = (
            '[DEFAULT]\nuse_stderr = false\n'
            f'[database]\nconnection = {self.database or "sqlite://"}\n'
            f'cassandra_node_ips = {",".join(self.contact_points)}\n'
            f'[cassandra]\nport = {self.port}\nkeyspace = {self.name}\n'
            f'[token]\nallow_expired_window = {self.allow_expired}\n'
            'provider = cassandra\n'
            '[revoke]\ndriver = cassandra\n[trust]\ndriver = cassandra\n'
            f'[fernet_tokens]\nkey_repository = {keys}\n'
            f'[fernet_receipts]\nkey_repository = {keys}\n'
        )
        # It has the database's password.
        with open(
            os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            'w',
        ) as file:
            file.write(text)


class Systems:
    """Each system, opened at first use."""

    def __init__(self, place: Place) -> None:
        self.place = place
        # As the server configures itself, but without its command line.
        keystone.conf.configure()
        keystone.conf.CONF(
            [],
            project='keystone',
            default_config_files=[place.file],
        )
        keystone.conf.set_external_opts_defaults()

    @functools.cached_property
    def sql(self) -> sql_revoke.Revoke:
        return sql_revoke.Revoke()

    @functools.cached_property
    def revoke(self) -> revoke.Revoke:
        return revoke.Revoke()

    @functools.cached_property
    def token(self) -> token.Provider:
        return token.Provider()

    @functools.cached_property
    def fernet(self) -> fernet.Provider:
        return fernet.Provider()

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

    def revoke_driver(self, system: str) -> revoke_base.RevokeDriverBase:
        """Return the revoke driver of ``sql`` or ``cassandra``."""
        return {'sql': lambda: self.sql, 'cassandra': lambda: self.revoke}[
            system
        ]()

    def token_provider(self, system: str) -> Any:
        """Return the token provider of ``fernet`` or ``cassandra``."""
        return {
            'fernet': lambda: self.fernet,
            'cassandra': lambda: self.token,
        }[system]()

    @functools.cached_property
    def token_ids(self) -> dict[str, list[str]]:
        """Ids of live tokens, issued when a provider's are first asked."""
        return _Ids(self)

    def hashes(self) -> list[bytes]:
        """Keys of the rows of the Cassandra tokens in ``token_ids``."""
        # What the driver computes, so that the very same rows are read.
        return [
            opaque_ids.hashed(self.token.conf, token_id)
            for token_id in self.token_ids['cassandra']
        ]


class _Ids(dict[str, list[str]]):
    def __init__(self, systems: Systems) -> None:
        super().__init__()
        self._systems = systems

    def __missing__(self, system: str) -> list[str]:
        provider = self._systems.token_provider(system)
        self[system] = [
            provider.generate_id_and_issued_at(events.new_token(LIFETIME))[0]
            for _ in range(TOKENS)
        ]
        return self[system]


def check(
    systems: Systems,
    system: str,
    age: int,
    reference: datetime.datetime,
    trust: bool = False,
) -> Callable[[], object]:
    """The revocation check of live tokens.

    :raises LabError: from the operation, if a token counts as revoked.
    """
    driver = systems.revoke_driver(system)
    tokens = itertools.cycle(
        [events.token_values(age, reference, trust) for _ in range(TOKENS)]
    )

    def run() -> None:
        values = next(tokens)
        found = driver.list_events(token=values)
        if revoke_model.is_revoked(found, values):
            raise LabError(f'{system}: a live token counts as revoked')

    return run


def revoke_one(systems: Systems, system: str) -> Callable[[], object]:
    """The revocation of one token by its audit id."""
    driver = systems.revoke_driver(system)
    return lambda: driver.revoke(events.audit_event())


def issue(
    systems: Systems, system: str, lifetime: float = LIFETIME
) -> Callable[[], object]:
    """The issue of a project token."""
    provider = systems.token_provider(system)
    return lambda: provider.generate_id_and_issued_at(
        events.new_token(lifetime)
    )


def validate(systems: Systems, system: str) -> Callable[[], object]:
    """The provider's ``validate_token``."""
    provider = systems.token_provider(system)
    ids = itertools.cycle(systems.token_ids[system])
    return lambda: provider.validate_token(next(ids))


def read_row(systems: Systems) -> Callable[[], object]:
    """A bare read of the rows that :func:`validate` reads."""
    session = systems.bare
    statement = session.prepare(token.GET.text(systems.place.name))
    hashes = itertools.cycle(systems.hashes())

    def run() -> None:
        if session.execute(statement, (next(hashes),)).one() is None:
            raise LabError('the row of a live token is missing')

    return run


def read_subjects(
    systems: Systems, age: int, reference: datetime.datetime
) -> Callable[[], object]:
    """A bare read of the nine subjects of a token that has all kinds."""
    session = systems.bare
    statement = session.prepare(revoke.CHECK.text(systems.place.name))
    keys = itertools.cycle(
        [
            subjects(events.token_values(age, reference, True))
            for _ in range(TOKENS)
        ]
    )
    return lambda: session.execute(statement, (next(keys),)).all()


def subjects(values: dict[str, Any]) -> list[str]:
    """Return the keys of the partitions that a check reads."""
    return revoke.subjects(revoke.values_of(values))


OPERATIONS: dict[str, Callable[..., Callable[[], object]]] = {
    'check': check,
    'revoke': revoke_one,
    'issue': issue,
    'validate': validate,
    'read_row': read_row,
    'read_subjects': read_subjects,
}


@dataclasses.dataclass(frozen=True)
class Order:
    """What one client is to run.

    :ivar operation: a name in :data:`OPERATIONS`.
    :ivar arguments: of it, after the systems.
    """

    operation: str
    arguments: tuple[Any, ...] = ()
    count: int = 200
    seconds: float = 10.0


@functools.lru_cache(maxsize=64)
def _opened(systems: Systems, order: Order) -> Callable[[], object]:
    operation = OPERATIONS[order.operation](systems, *order.arguments)
    loop(operation, *_WARM_UP)
    return operation


def run(systems: Systems, begin: float, order: Order) -> Sample:
    """Run an order from the moment ``begin`` on; what a client does.

    What is opened for the order first, and some runs to warm up, are not
    measured; a client that needs longer than the others for that begins
    later than they.
    """
    operation = _opened(systems, order)
    wait_until(begin)
    return loop(operation, order.count, order.seconds)


def prepare(systems: Systems, order: Order) -> None:
    """Open what an order needs, ahead of the measurement."""
    _opened(systems, order)


def cassandra_version(systems: Systems) -> str:
    """Return the version of the node."""
    found = systems.bare.execute('SELECT release_version FROM system.local')
    return str(found.one()[0])
