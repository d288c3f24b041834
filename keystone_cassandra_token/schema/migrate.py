# SPDX-License-Identifier: Apache-2.0
"""Make the keyspace and its tables, and say what state they are in.

Migrations are applied in order by one migrator at a time, which holds the
lease of :mod:`~keystone_cassandra_token.schema.lease`; only the first, which
makes the lease's own table under a fixed id, is applied before it.  After
each statement all nodes that are up must agree on the schema.  Each file is
idempotent, so a migrator that stopped anywhere is simply run again.  Nothing
is ever dropped.

What was applied is recorded by INSERT ... IF NOT EXISTS at SERIAL, not by a
plain one: a migrator that lost its lease unknowingly cannot overwrite the
checksum that another has recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cassandra.query
from oslo_config import cfg

from keystone_cassandra_token import (
    clock,
    errors,
    revocation_ttl,
    session,
    store,
)
from keystone_cassandra_token.consistency import Finding
from keystone_cassandra_token.cql import (
    claim,
    scan,
    schema_change,
    schema_read,
)
from keystone_cassandra_token.schema import files, lease, level
from keystone_cassandra_token.schema.files import Migration
from keystone_cassandra_token.session import Connection

#: Seconds for the nodes to agree on the schema after a statement.
AGREEMENT_TIMEOUT = 15.0
#: Seconds for one statement; with the wait above less than the lease's life.
STATEMENT_TIMEOUT = 40.0

#: Replicas in a datacenter, where it has that many nodes.
_REPLICAS = 3

_STRATEGY = 'NetworkTopologyStrategy'
_MIGRATIONS = 'schema_migration'

Report = Callable[[str], None]

RECORD = schema_change(
    'INSERT INTO schema_migration (level, name, checksum, applied_at)'
    ' VALUES (:level, :name, :checksum, :applied_at) IF NOT EXISTS'
)
GET_RECORD = schema_read(
    'SELECT level, checksum FROM schema_migration WHERE level = :level'
)
# A whole table of some ten rows, for an operator.
LIST_RECORDS = scan(
    'SELECT level, name, checksum, applied_at FROM schema_migration'
)
# Agreed on as servers agree on the other settings of this table.
SET = claim(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
    ' IF NOT EXISTS'
)
LIST_SETTINGS = scan('SELECT name, value FROM schema_setting')


class MigrationError(Exception):
    """The schema cannot be changed; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What state the keyspace is in.

    :ivar needed: the level that this package needs.
    :ivar applied: level -> (name, checksum, time in microseconds).
    :ivar holder: the migrator at work, or None.
    :ivar settings: name -> value.
    """

    keyspace: str
    replication: dict[str, int]
    needed: int
    applied: dict[int, tuple[str, str, int]]
    holder: lease.Holder | None
    settings: dict[str, str]

    @property
    def level(self) -> int:
        """The highest level applied; 0 if none is."""
        return max(self.applied, default=0)


@contextlib.contextmanager
def connected(conf: cfg.ConfigOpts) -> Iterator[Connection]:
    """Connect for the schema tool, whatever the consistency options are.

    :raises StoreUnavailable: if no node can be reached.
    :raises ConfigurationError: for options that cannot work.
    """
    try:
        connection = session.connect(conf, check_policy=False)
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, session.CONNECTING) from error
    try:
        connection.cluster.max_schema_agreement_wait = AGREEMENT_TIMEOUT
        yield connection
    finally:
        connection.cluster.shutdown()


def create_keyspace(
    conf: cfg.ConfigOpts,
    replication: Mapping[str, int] | None = None,
    report: Report = print,
) -> dict[str, int]:
    """Make the keyspace; return its replicas by datacenter.

    :param replication: replicas by datacenter; without it each datacenter
        of the cluster keeps 3, or as many as it has nodes.
    :raises MigrationError: if the keyspace is there with another
        replication, or a datacenter is not in the cluster.
    """
    with connected(conf) as connection:
        nodes = _nodes_by_datacenter(connection)
        wanted = replication or {
            name: min(_REPLICAS, count) for name, count in nodes.items()
        }
        _check_datacenters(wanted, nodes)
        found = _replication(connection)
        if found is None:
            _alter(connection, keyspace_cql(connection.keyspace, wanted))
            found = _replication(connection)
            report(
                f'Keyspace {connection.keyspace} made, replicas:'
                f' {_in_words(found or {})}.'
            )
        else:
            report(
                f'Keyspace {connection.keyspace} exists, replicas:'
                f' {_in_words(found)}.'
            )
        # Also after making it: another migrator may have been faster.
        if not found or (replication and found != dict(replication)):
            raise MigrationError(
                f'Keyspace {connection.keyspace} is replicated as'
                f' {_in_words(found or {})}, not as {_in_words(wanted)}:'
                ' change that by ALTER KEYSPACE, then repair all nodes.'
            )
        for finding in connection.policy.proofs(found):
            report(finding.text)
        for name, replicas in wanted.items():
            if replicas > nodes[name]:
                report(
                    f'Datacenter {name} has {nodes[name]} nodes for'
                    f' {replicas} replicas: start the others.'
                )
        return found


def keyspace_cql(keyspace: str, replication: Mapping[str, int]) -> str:
    """Return the statement that makes a keyspace."""
    factors = ''.join(
        f", '{name}': {factor}" for name, factor in sorted(replication.items())
    )
    return (
        f'CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication ='
        f" {{'class': '{_STRATEGY}'{factors}}}"
    )


def plan(conf: cfg.ConfigOpts, offline: bool = False) -> list[str]:
    """Return the CQL of what is not applied yet, for a DBA to run.

    Fully qualified, in order, with the records that servers look for.

    :param offline: all of it, without connecting.
    :raises MigrationError: if a file that was applied has changed.
    """
    keyspace = conf.cassandra.keyspace
    if offline:
        return [*_cql(files.migrations(), keyspace), _name_comparison(conf)]
    with connected(conf) as connection:
        _require_keyspace(connection)
        pending = _pending(connection)
        planned = list(_cql(pending, keyspace))
        if _setting(connection, level.NAME_COMPARISON) is None:
            planned.append(_name_comparison(conf))
        return planned


def apply(conf: cfg.ConfigOpts, report: Report = print) -> int:
    """Apply what is not applied yet; return the level reached.

    :raises LeaseTaken: if another migrator is at work.
    :raises MigrationError: if a file that was applied has changed, the nodes
        do not agree on the schema, or names are compared otherwise.
    :raises StoreUnavailable: if the cluster does not answer.
    """
    with connected(conf) as connection:
        _require_keyspace(connection)
        _apply_first(connection, report)
        with lease.Lease(connection) as held:
            for migration in _pending(connection):
                if migration.level != files.migrations()[0].level:
                    report(f'Applying {_title(migration)}.')
                for text in migration.statements(connection.keyspace):
                    held.renew()
                    _alter(connection, text)
                held.renew()
                _record(connection, migration)
            _set_name_comparison(connection, conf)
        reached = _level(connection)
    _set_revocation_ttl(conf)
    report(f'Keyspace {conf.cassandra.keyspace} is of level {reached}.')
    return reached


def verify(conf: cfg.ConfigOpts) -> list[Finding]:
    """Compare the keyspace with this package; return what differs.

    Checks levels, checksums, name comparison, and the tables themselves.
    """
    # Here, since it needs `connected` of this module.
    from keystone_cassandra_token.schema import describe

    with connected(conf) as connection:
        _require_keyspace(connection)
        findings = []
        applied = _applied(connection)
        for migration in files.migrations():
            checksum = applied.get(migration.level)
            if checksum is None:
                findings.append(
                    Finding(
                        True,
                        f'Migration {_title(migration)} is'
                        ' not applied: run `keystone-cassandra schema'
                        ' apply`.',
                    )
                )
            elif checksum != migration.checksum:
                findings.append(Finding(True, _changed(migration)))
        if not findings:
            recorded = _setting(connection, level.NAME_COMPARISON)
            option = conf.cassandra.name_comparison
            if recorded != option:
                findings.append(Finding(True, _other_names(option, recorded)))
            findings.extend(
                Finding(fatal, text)
                for fatal, text in describe.differences(connection)
            )
        return findings


def status(conf: cfg.ConfigOpts) -> Status:
    """Return what state the keyspace is in."""
    with connected(conf) as connection:
        _require_keyspace(connection)
        applied = {}
        settings = {}
        holder = None
        tables = table_names(connection)
        if _MIGRATIONS in tables:
            applied = {
                row['level']: (
                    row['name'],
                    row['checksum'],
                    row['applied_at'],
                )
                for row in level.execute(connection, LIST_RECORDS)
            }
        if 'schema_setting' in tables:
            settings = {
                row['name']: row['value']
                for row in level.execute(connection, LIST_SETTINGS)
            }
        if 'schema_lock' in tables:
            holder = lease.holder(connection)
        return Status(
            keyspace=connection.keyspace,
            replication=_replication(connection) or {},
            needed=files.latest(),
            applied=dict(sorted(applied.items())),
            holder=holder,
            settings=settings,
        )


def table_names(connection: Connection) -> set[str]:
    """Return the tables of the keyspace, as the node has them now."""
    rows = connection.session.execute(
        'SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s',
        (connection.keyspace,),
    )
    return {row['table_name'] for row in rows}


def _nodes_by_datacenter(connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for host in connection.cluster.metadata.all_hosts():
        counts[host.datacenter] = counts.get(host.datacenter, 0) + 1
    return dict(sorted(counts.items()))


def _check_datacenters(
    wanted: Mapping[str, int], nodes: Mapping[str, int]
) -> None:
    unknown = sorted(wanted.keys() - nodes.keys())
    if unknown:
        raise MigrationError(
            f'There is no datacenter {", ".join(unknown)} in this cluster:'
            f' it has {", ".join(nodes)}.'
        )


def _replication(connection: Connection) -> dict[str, int] | None:
    """Return replicas by datacenter as the node has them now.

    None if there is no such keyspace, empty for another strategy.
    """
    row = connection.session.execute(
        'SELECT replication FROM system_schema.keyspaces'
        ' WHERE keyspace_name = %s',
        (connection.keyspace,),
    ).one()
    if row is None:
        return None
    options = dict(row['replication'])
    if not options.pop('class').endswith(f'.{_STRATEGY}'):
        return {}
    return {
        name: int(factor.split('/')[0]) for name, factor in options.items()
    }


def _in_words(replication: Mapping[str, int]) -> str:
    if not replication:
        return f'not by {_STRATEGY}'
    return ', '.join(
        f'{factor} in {name}' for name, factor in sorted(replication.items())
    )


def _require_keyspace(connection: Connection) -> None:
    if _replication(connection) is None:
        raise MigrationError(
            f'[cassandra] keyspace = {connection.keyspace} does not exist:'
            ' run `keystone-cassandra keyspace create`.'
        )


def _alter(connection: Connection, text: str) -> None:
    """Run one statement that changes the schema; all nodes must agree.

    :raises MigrationError: if they do not in time.
    """
    try:
        connection.session.execute(
            cassandra.query.SimpleStatement(text), timeout=STATEMENT_TIMEOUT
        )
        # Also where the statement changed nothing: then another made it.
        agreed = (
            connection.cluster.control_connection.wait_for_schema_agreement(
                wait_time=AGREEMENT_TIMEOUT
            )
        )
    except errors.DRIVER_ERRORS as error:
        raise errors.translate(error, text.split('(')[0]) from error
    if not agreed:
        raise MigrationError(
            'The nodes do not agree on the schema after'
            f' {AGREEMENT_TIMEOUT:.0f} s (`nodetool describecluster` shows'
            ' which): bring them up or take them out of the cluster, then'
            ' run this again.'
        )


def _apply_first(connection: Connection, report: Report) -> None:
    """Apply the migration that makes the lease's table.

    It cannot be under the lease.  Its table ids are fixed, so two that meet
    here make the same tables.
    """
    first = files.migrations()[0]
    if _applied(connection).get(first.level) is None:
        report(f'Applying {_title(first)}.')
        for text in first.statements(connection.keyspace):
            _alter(connection, text)


def _applied(connection: Connection) -> dict[int, str]:
    """Return the checksums of this package's levels that are recorded."""
    if _MIGRATIONS not in table_names(connection):
        return {}
    return {
        row['level']: row['checksum']
        for migration in files.migrations()
        for row in level.execute(connection, GET_RECORD, level=migration.level)
    }


def _level(connection: Connection) -> int:
    rows = level.execute(connection, level.LEVELS)
    return max((row['level'] for row in rows), default=0)


def _pending(connection: Connection) -> list[Migration]:
    """Return the migrations that are not applied.

    :raises MigrationError: if one that is has changed since.
    """
    applied = _applied(connection)
    pending = []
    for migration in files.migrations():
        checksum = applied.get(migration.level)
        if checksum is None:
            pending.append(migration)
        elif checksum != migration.checksum:
            raise MigrationError(_changed(migration))
    return pending


def _title(migration: Migration) -> str:
    return f'{migration.level:04} {migration.name}'


def _changed(migration: Migration) -> str:
    return (
        f'Migration {_title(migration)} was applied with'
        ' another content than this package has: install the release that'
        ' applied it, or one after it.'
    )


def _record(connection: Connection, migration: Migration) -> None:
    with contextlib.suppress(errors.OutcomeUnknown):
        level.execute(
            connection,
            RECORD,
            level=migration.level,
            name=migration.name,
            checksum=migration.checksum,
            applied_at=clock.to_micros(clock.utcnow()),
        )
    rows = level.execute(connection, GET_RECORD, level=migration.level)
    if not rows or rows[0]['checksum'] != migration.checksum:
        raise MigrationError(
            f'Migration {_title(migration)} could not be'
            ' recorded: run this again.'
        )


def _setting(connection: Connection, name: str) -> str | None:
    if 'schema_setting' not in table_names(connection):
        return None
    return level.setting(connection, name)


def _set_name_comparison(connection: Connection, conf: cfg.ConfigOpts) -> None:
    """Record how names are compared, once for all."""
    name, option = level.NAME_COMPARISON, conf.cassandra.name_comparison
    with contextlib.suppress(errors.OutcomeUnknown):
        level.execute(connection, SET, name=name, value=option)
    recorded = level.setting(connection, name)
    if recorded != option:
        raise MigrationError(_other_names(option, recorded))


def _other_names(option: str, recorded: str | None) -> str:
    return (
        f'[cassandra] name_comparison = {option}, but this keyspace was made'
        f' with {recorded}, which cannot be changed: set the option to'
        f' {recorded}.'
    )


def _set_revocation_ttl(conf: cfg.ConfigOpts) -> None:
    """Make sure that revocations outlive this configuration's tokens."""
    db = store.Store(conf)
    try:
        revocation_ttl.RevocationTTL(db).ensure(revocation_ttl.needed(conf))
    finally:
        db.close()


def _cql(migrations: Any, keyspace: str) -> Iterator[str]:
    now = clock.to_micros(clock.utcnow())
    for migration in migrations:
        yield from migration.statements(keyspace)
        yield (
            f'INSERT INTO {keyspace}.schema_migration'
            ' (level, name, checksum, applied_at) VALUES'
            f" ({migration.level}, '{migration.name}',"
            f" '{migration.checksum}', {now}) IF NOT EXISTS"
        )


def _name_comparison(conf: cfg.ConfigOpts) -> str:
    return (
        f'INSERT INTO {conf.cassandra.keyspace}.schema_setting (name, value)'
        f" VALUES ('{level.NAME_COMPARISON}',"
        f" '{conf.cassandra.name_comparison}') IF NOT EXISTS"
    )
