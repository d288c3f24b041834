# SPDX-License-Identifier: Apache-2.0
"""Make the keyspace and its tables, and say what state they are in.

Migrations are applied in order by one migrator at a time, which holds the
lease of ``schema.lease``; only the first, which
makes the lease's own table under a fixed id, is applied before it.  After
each statement all nodes that are up must agree on the schema, and after all
that set options of tables.  Each file is idempotent, so a migrator that
stopped anywhere is simply run again.  Nothing is ever dropped.

What was applied is recorded by INSERT ... IF NOT EXISTS at SERIAL, not by a
plain one: a migrator that lost its lease unknowingly cannot overwrite the
checksum that another has recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.cql import (
    lwt_global,
    scan,
    schema_change,
    schema_read,
)
from keystone_cassandra_token.db.findings import Finding, fail, warn
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    keyspace,
    lease,
    parse,
    regions,
    version,
)
from keystone_cassandra_token.schema.files import Migration

MigrationError = ddl.MigrationError
create_keyspace = keyspace.create_keyspace

_MIGRATIONS = 'schema_migration'

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
SET = lwt_global(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
    ' IF NOT EXISTS'
)
CHANGE = lwt_global(
    'UPDATE schema_setting SET value = :value WHERE name = :name'
    ' IF value = :seen'
)
REMOVE = lwt_global('DELETE FROM schema_setting WHERE name = :name IF EXISTS')


@dataclasses.dataclass(frozen=True)
class Status:
    """What state the keyspace is in.

    :ivar needed: the schema version that this package needs.
    :ivar applied: version -> (name, checksum, time in microseconds).
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
    def version(self) -> int:
        """The highest version applied; 0 if none is."""
        return max(self.applied, default=0)


def plan(
    conf: cfg.ConfigOpts,
    offline: bool = False,
    change_serial_levels: bool = False,
) -> list[str]:
    """Return the CQL of what is not applied yet, for a DBA to run.

    Fully qualified, in order, with the records that servers look for.

    :param offline: all of it, without connecting.
    :param change_serial_levels: as for :func:`apply`.
    :raises MigrationError: if a file that was applied has changed, or an
        option is not as it is recorded.
    """
    name = conf.cassandra.keyspace
    if offline:
        return [*_cql(files.migrations(), name), *_settings_cql(conf, {})]
    with ddl.connected(conf) as connection:
        keyspace.require(connection)
        planned = list(_cql(_pending(connection), name))
        recorded = _settings(connection)
        if change_serial_levels:
            planned += _changes_cql(conf, recorded)
        else:
            _check_settings(conf, recorded)
        return [*planned, *_settings_cql(conf, recorded)]


def apply(
    conf: cfg.ConfigOpts,
    report: ddl.Report = print,
    change_serial_levels: bool = False,
) -> int:
    """Apply what is not applied yet; return the version reached.

    :param change_serial_levels: record those of this configuration in place
        of others; no server may run.
    :raises LeaseTaken: if another migrator is at work.
    :raises MigrationError: if a file that was applied has changed, the nodes
        do not agree on the schema, or an option is not as it is recorded.
    :raises StoreUnavailable: if the cluster does not answer.
    """
    with ddl.connected(conf) as connection:
        keyspace.require(connection)
        _apply_first(connection, report)
        with lease.Lease(connection) as held:
            for migration in _pending(connection):
                if migration != files.migrations()[0]:
                    report(f'Applying {_title(migration)}.')
                    for text in migration.statements(connection.keyspace):
                        held.renew()
                        if parse.sets_options(text):
                            ddl.set_options(connection, text)
                        else:
                            ddl.alter(connection, text)
                    ddl.agree(connection)
                held.renew()
                _record(connection, migration)
            _record_settings(connection, conf, change_serial_levels)
        found = reached(connection)
    report(
        f'Keyspace {conf.cassandra.keyspace} is at schema version'
        f' {version.in_words(found)}.'
    )
    return found


def verify(conf: cfg.ConfigOpts) -> list[Finding]:
    """Compare the keyspace with this package; return what differs."""
    with ddl.connected(conf) as connection:
        keyspace.require(connection)
        return list(differences(connection, conf.cassandra))


def differences(
    connection: Connection, section: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield in what a keyspace differs from this package.

    Versions, checksums, the options that are recorded, and the tables
    themselves.

    :param section: the options of ``[cassandra]``.
    """
    applied = _applied(connection)
    missing = []
    for migration in files.migrations():
        checksum = applied.get(migration.version)
        if checksum is None:
            missing.append(_title(migration))
        elif checksum != migration.checksum:
            yield fail('schema', _changed(migration))
    if missing:
        names = (
            f'all {len(missing)} migrations'
            if len(missing) == len(files.migrations())
            else ', '.join(missing)
        )
        yield fail(
            'schema',
            f'Not applied: {names}. Run `keystone-cassandra schema apply`.',
        )
        return  # the rest follows from that
    recorded = version.settings(connection)
    for name in version.COMMON:
        text = version.differs(name, section[name], recorded.get(name))
        if text is not None:
            yield fail('schema', text)
    found = list(describe.differences(connection))
    if found and not ddl.agreed(connection, wait=1.0):
        yield fail(
            'schema',
            'The nodes do not agree on the schema (`nodetool describecluster`'
            ' shows which), and one of them lacks what this package needs: a'
            ' node that was away gets it within a minute. Run this again.',
        )
        return
    for fatal, text in found:
        yield (fail if fatal else warn)('schema', text)


def status(conf: cfg.ConfigOpts) -> Status:
    """Return what state the keyspace is in."""
    with ddl.connected(conf) as connection:
        keyspace.require(connection)
        applied = {}
        holder = None
        tables = ddl.table_names(connection)
        if _MIGRATIONS in tables:
            applied = {
                row['level']: (
                    row['name'],
                    row['checksum'],
                    row['applied_at'],
                )
                for row in version.execute(connection, LIST_RECORDS)
            }
        if 'schema_lock' in tables:
            holder = lease.holder(connection)
        return Status(
            keyspace=connection.keyspace,
            replication=keyspace.replicas(connection) or {},
            needed=files.latest(),
            applied=dict(sorted(applied.items())),
            holder=holder,
            settings=_settings(connection),
        )


def dump(conf: cfg.ConfigOpts) -> str:
    """Return the tables of the keyspace as canonical CQL."""
    with ddl.connected(conf) as connection:
        keyspace.require(connection)
        return describe.text(describe.read(connection))


def _apply_first(connection: Connection, report: ddl.Report) -> None:
    """Apply the migration that makes the lease's table.

    It cannot be under the lease.  Its table ids are fixed, so two that meet
    here make the same tables.
    """
    first = files.migrations()[0]
    try:
        applied = _applied(connection)
    except errors.StoreUnavailable:
        # Another migrator may be making the tables, and a replica fails a
        # read of one that it has not yet.  If it is not that, the statements
        # below, which change nothing a second time, say what it is.
        applied = {}
    if first.version not in applied:
        report(f'Applying {_title(first)}.')
        for text in first.statements(connection.keyspace):
            _alter_beside_others(connection, text)


def _alter_beside_others(connection: Connection, text: str) -> None:
    """Run an idempotent statement that another migrator may be running.

    Two changes of the schema that meet on a node can make one of them end
    in a server error; it is right to try again.
    """
    for _ in range(2):
        try:
            return ddl.alter(connection, text)
        except errors.StoreUnavailable:
            time.sleep(random.uniform(0.5, 2.0))
    ddl.alter(connection, text)


def _applied(connection: Connection) -> dict[int, str]:
    """Return the checksums of this package's versions that are recorded."""
    if _MIGRATIONS not in ddl.table_names(connection):
        return {}
    return {
        row['level']: row['checksum']
        for migration in files.migrations()
        for row in version.execute(
            connection, GET_RECORD, level=migration.version
        )
    }


def reached(connection: Connection) -> int:
    """Return the highest version that is recorded; 0 if none is."""
    rows = version.execute(connection, version.VERSIONS)
    return max((row['level'] for row in rows), default=0)


def _pending(connection: Connection) -> list[Migration]:
    """Return the migrations that are not applied.

    :raises MigrationError: if one that is has changed since.
    """
    applied = _applied(connection)
    pending = []
    for migration in files.migrations():
        checksum = applied.get(migration.version)
        if checksum is None:
            pending.append(migration)
        elif checksum != migration.checksum:
            raise ddl.MigrationError(_changed(migration))
    return pending


def _title(migration: Migration) -> str:
    return f'{migration.version:04} {migration.name}'


def _changed(migration: Migration) -> str:
    return (
        f'Migration {_title(migration)} was applied with'
        ' another content than this package has: install the release that'
        ' applied it, or one after it.'
    )


def _record(connection: Connection, migration: Migration) -> None:
    with contextlib.suppress(errors.OutcomeUnknown):
        version.execute(
            connection,
            RECORD,
            level=migration.version,
            name=migration.name,
            checksum=migration.checksum,
            applied_at=clock.to_micros(clock.utcnow()),
        )
    rows = version.execute(connection, GET_RECORD, level=migration.version)
    if not rows or rows[0]['checksum'] != migration.checksum:
        raise ddl.MigrationError(
            f'Migration {_title(migration)} could not be'
            ' recorded: run this again.'
        )


def _settings(connection: Connection) -> dict[str, str]:
    if 'schema_setting' not in ddl.table_names(connection):
        return {}
    return version.settings(connection)


def _record_settings(
    connection: Connection, conf: cfg.ConfigOpts, change_serial_levels: bool
) -> None:
    """Record the options that all servers have in common."""
    for name in version.COMMON:
        option = conf.cassandra[name]
        with contextlib.suppress(errors.OutcomeUnknown):
            version.execute(connection, SET, name=name, value=option)
        recorded = version.settings(connection).get(name)
        if change_serial_levels and name in version.SERIAL_LEVELS:
            with contextlib.suppress(errors.OutcomeUnknown):
                version.execute(
                    connection, CHANGE, name=name, value=option, seen=recorded
                )
            recorded = version.settings(connection).get(name)
        text = version.differs(name, option, recorded)
        if text is not None:
            raise ddl.MigrationError(text)
    _record_regions(connection)


def _record_regions(connection: Connection) -> None:
    """Record the regions of a keyspace that has none recorded as ready."""
    if not regions.ready(version.settings(connection)):
        for datacenter in sorted(connection.replication):
            record_region(connection, datacenter)


def record_region(connection: Connection, datacenter: str) -> None:
    """Record that a region is ready.

    :raises MigrationError: if nobody knows whether that was done.
    """
    name = regions.READY + datacenter
    value = clock.utcnow().isoformat(timespec='seconds')
    with contextlib.suppress(errors.OutcomeUnknown):
        version.execute(connection, SET, name=name, value=value)
    if name not in version.settings(connection):
        raise ddl.MigrationError(
            f'That datacenter {datacenter} is ready could not be recorded: run'
            ' this again.'
        )


def withdraw_region(connection: Connection, datacenter: str) -> None:
    """Record that a region is not ready.

    :raises MigrationError: if it is not recorded as ready, no other one is, or
        nobody knows whether that was done.
    """
    known = regions.ready(version.settings(connection))
    if datacenter not in known:
        raise ddl.MigrationError(
            f'{datacenter} is no datacenter that is ready:'
            f' {", ".join(sorted(known)) or "none"} may serve.'
        )
    if known == {datacenter}:
        raise ddl.MigrationError(
            f'No other datacenter than {datacenter} is ready.'
        )
    name = regions.READY + datacenter
    with contextlib.suppress(errors.OutcomeUnknown):
        version.execute(connection, REMOVE, name=name)
    if name in version.settings(connection):
        raise ddl.MigrationError('It could not be recorded: run this again.')


def _cql(migrations: Iterable[Migration], keyspace: str) -> Iterator[str]:
    now = clock.to_micros(clock.utcnow())
    for migration in migrations:
        yield from migration.statements(keyspace)
        yield (
            f'INSERT INTO {keyspace}.schema_migration'
            ' (level, name, checksum, applied_at) VALUES'
            f" ({migration.version}, '{migration.name}',"
            f" '{migration.checksum}', {now}) IF NOT EXISTS"
        )


def _check_settings(conf: cfg.ConfigOpts, recorded: Mapping[str, str]) -> None:
    for name in version.COMMON:
        if name in recorded:
            text = version.differs(name, conf.cassandra[name], recorded[name])
            if text is not None:
                raise ddl.MigrationError(text)


def _changes_cql(
    conf: cfg.ConfigOpts, recorded: Mapping[str, str]
) -> Iterator[str]:
    for name in version.SERIAL_LEVELS:
        former, option = recorded.get(name), conf.cassandra[name]
        if former not in (None, option):
            yield (
                f'UPDATE {conf.cassandra.keyspace}.schema_setting'
                f" SET value = '{option}' WHERE name = '{name}'"
                f" IF value = '{former}'"
            )


def _settings_cql(
    conf: cfg.ConfigOpts, recorded: Mapping[str, str]
) -> Iterator[str]:
    for name in version.COMMON:
        if name not in recorded:
            yield (
                f'INSERT INTO {conf.cassandra.keyspace}.schema_setting'
                f" (name, value) VALUES ('{name}', '{conf.cassandra[name]}')"
                ' IF NOT EXISTS'
            )
