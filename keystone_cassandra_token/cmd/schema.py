# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra schema``: plan, apply, verify, status, roles, dump."""

from __future__ import annotations

import functools
import sys
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import clock, store
from keystone_cassandra_token.db.findings import State
from keystone_cassandra_token.schema import (
    ddl,
    keyspace,
    lease,
    migrate,
    roles,
    version,
)

_HEADER = """\
-- For cqlsh; first:  CONSISTENCY LOCAL_QUORUM; SERIAL CONSISTENCY SERIAL;
-- Wait for schema agreement after each statement, and let nobody else run
-- migrations meanwhile.
"""


def add_commands(parser: Any) -> None:
    """Add the actions to the parser of ``schema``."""
    actions = parser.add_subparsers(dest='action', required=True)
    plan = actions.add_parser('plan', help='print the CQL not applied yet')
    plan.add_argument(
        '--offline',
        action='store_true',
        help='print all of it, without connecting',
    )
    plan.set_defaults(run=_plan)
    apply = actions.add_parser('apply', help='apply what is not applied yet')
    apply.add_argument(
        '--dry-run',
        action='store_true',
        help='print the CQL instead, and fail where it could not be applied',
    )
    apply.add_argument(
        '--change-serial-levels',
        action='store_true',
        help='record the *_serial_consistency options of this configuration in'
        ' place of those that the keyspace has; stop all servers before',
    )
    apply.set_defaults(run=_apply)
    for name, run, text in (
        ('verify', _verify, 'compare the tables with this release'),
        ('status', _status, 'print versions, settings and who migrates'),
        ('roles', _roles, 'print the CQL of least-privilege roles'),
        ('dump', _dump, 'print the tables as canonical CQL'),
    ):
        action = actions.add_parser(name, help=text)
        action.set_defaults(run=run)


def _plan(conf: cfg.ConfigOpts) -> None:
    offline = conf.command.offline
    statements = migrate.plan(conf, offline=offline)
    if not statements:
        print('-- Nothing to apply.')
        return
    print(_HEADER)
    if offline:
        made = keyspace.keyspace_cql(
            conf.cassandra.keyspace, {conf.cassandra.local_dc or 'dc1': 3}
        )
        print(f'-- Before, with your own datacenters:\n-- {made};\n')
    for statement in statements:
        print(f'{statement};\n')


def _apply(conf: cfg.ConfigOpts) -> None:
    if not conf.command.dry_run:
        migrate.apply(
            conf,
            report=functools.partial(print, flush=True),
            change_serial_levels=conf.command.change_serial_levels,
        )
        _set_revocation_ttl(conf)
        _say_what_servers_lack(conf)
        return
    holder = migrate.status(conf).holder
    if holder is not None:
        raise lease.LeaseTaken(
            f'Another migrator is at work: {holder.name} holds the lease for'
            f' {holder.seconds} s more, unless it renews it.'
        )
    planned = migrate.plan(
        conf, change_serial_levels=conf.command.change_serial_levels
    )
    for statement in planned or ['-- Nothing to apply.']:
        print(statement if statement.startswith('--') else f'{statement};\n')


def _say_what_servers_lack(conf: cfg.ConfigOpts) -> None:
    """Print the grants that the servers' role lacks, as for new tables."""
    if not conf.cassandra.username:
        return  # nobody logs in
    with ddl.connected(conf) as connection:
        role = roles.server(connection.keyspace)
        try:
            grants = roles.lacking(connection, role)
        except roles.NoAuthorizer:
            return
        except roles.NoRole:
            print(
                'The roles are not there yet: a superuser runs what'
                ' `keystone-cassandra schema roles` prints.'
            )
            return
        except roles.Unknown:
            # Its name is not the one that we know, or nobody let us see.
            print(
                f'The permissions of {role} cannot be read with this role:'
                ' `keystone-cassandra doctor` as a server says what it lacks.'
            )
            return
    if grants:
        print(
            f'The servers answer 503 until {role} has what it lacks. Run with'
            ' cqlsh:'
        )
        for grant in grants:
            print(f'  {grant.cql(role)}')


def _set_revocation_ttl(conf: cfg.ConfigOpts) -> None:
    """Make sure that revocations outlive this configuration's tokens."""
    db = store.Store(conf, verify=version.check_of_command)
    try:
        revocation_ttl.RevocationTTL(db).ensure(revocation_ttl.needed(conf))
    finally:
        db.close()


def _verify(conf: cfg.ConfigOpts) -> bool:
    findings = migrate.verify(conf)
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        print(f'Keyspace {conf.cassandra.keyspace} is as released.')
    return any(finding.state is State.FAIL for finding in findings)


def _status(conf: cfg.ConfigOpts) -> bool:
    found = migrate.status(conf)
    print(f'keyspace     {found.keyspace}')
    print(f'replication  {keyspace.in_words(found.replication)}')
    print(f'version      {version.in_words(found.version)}')
    for number, (name, checksum, applied_at) in found.applied.items():
        when = clock.from_micros(applied_at).isoformat(' ', 'seconds')
        print(f'  {number:04} {name:<22} {when}  {checksum[:12]}')
    for name, value in sorted(found.settings.items()):
        print(f'{name} = {value}')
    if found.holder:
        print(
            f'migrator     {found.holder.name}, lease for'
            f' {found.holder.seconds} s'
        )
    return found.version < found.needed


def _roles(conf: cfg.ConfigOpts) -> None:
    print(roles.text(conf.cassandra.keyspace), end='')


def _dump(conf: cfg.ConfigOpts) -> None:
    print(migrate.dump(conf), end='')
