# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra region``: ready, withdraw."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.cmd.progress import Progress
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.schema import ddl, migrate, version

_READY = """\
Lets the servers of this region ([cassandra] local_dc) serve, once its nodes
have been added to the keyspace, rebuilt and repaired: before that it may have
tokens and lack what revokes them. Reads all revocations in all regions, which
brings here what is still missing, and records that the region is ready. All
regions must be reachable. It can be run again.
"""
_WITHDRAW = """\
Keeps servers of a region from starting, until "region ready" is run there: for
one whose nodes are lost and are to be rebuilt. Stop those that run.
"""


def add_commands(parser: Any) -> None:
    """Add the actions to the parser of ``region``."""
    actions = parser.add_subparsers(dest='action', required=True)
    ready = actions.add_parser(
        'ready',
        help='record that this region has what it needs',
        description=_READY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ready.set_defaults(run=_ready)
    withdraw = actions.add_parser(
        'withdraw',
        help='let no server of a region start until it is ready again',
        description=_WITHDRAW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    withdraw.add_argument('datacenter', help='name of the region')
    withdraw.set_defaults(run=_withdraw)


def _ready(conf: cfg.ConfigOpts) -> None:
    # Not at import: a broken driver must not keep other commands from work.
    from keystone_cassandra_token.drivers.token import events

    db = Store(conf, verify=version.check_of_command)
    try:
        connection = db.sessions.get()
        progress = Progress(sys.stderr, tables=1, rate=0)
        count = 0
        for _ in db.iterate(events.BRING_ALL, events.REVOCATION):
            progress.examined('revocation', 1)
            count += 1
        progress.clear()
        kept = revocation_ttl.RevocationTTL(db)
        for name in revocation_ttl.TTL, revocation_ttl.EVERYWHERE:
            kept.read(revocation_ttl.GET_EVERYWHERE, name)
        migrate.record_region(connection, connection.local_dc)
    finally:
        db.close()
    print(
        f'Datacenter {connection.local_dc} is ready: it has all'
        f' {count:,} revocations. Start its servers.'
    )


def _withdraw(conf: cfg.ConfigOpts) -> None:
    datacenter = conf.command.datacenter
    with ddl.connected(conf) as connection:
        migrate.withdraw_region(connection, datacenter)
    print(
        f'Servers of datacenter {datacenter} do not start until'
        ' `keystone-cassandra region ready` is run there.'
    )
