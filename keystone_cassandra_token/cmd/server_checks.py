# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor: do the servers that run fit each other?"""

from __future__ import annotations

from collections.abc import Iterator

from oslo_config import cfg

from keystone_cassandra_token.db import servers
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, fail, ok, warn
from keystone_cassandra_token.schema import keyspace

#: What follows where these differ.
_SECRETS = {
    '[cassandra] token_key': 'none of them finds the tokens of the other',
    '[credential] key_repository': 'none of them can decrypt the credentials'
    ' (EC2, TOTP) that the other has encrypted',
}


def settings(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """All servers have the settings in common that they must have."""
    name = 'servers'
    if keyspace.replicas(connection) is None:
        return
    rows = connection.session.execute(servers.ALL.text(connection.keyspace))
    running = [servers.Server(**servers.SERVER.load(row)) for row in rows]
    if not running:
        yield ok(
            name,
            'no server of this version has answered a request lately.',
        )
        return
    same = True
    for setting, who in servers.differences(running):
        same = False
        if setting in _SECRETS:
            yield fail(
                name,
                f'{setting} differs, so that {_SECRETS[setting]}: {who} (these'
                ' are fingerprints). Copy it from one to the others.',
            )
        else:
            yield warn(name, f'{setting} differs: {who}. Set it to one value.')
    if same:
        found = ', '.join(sorted(map(str, running)))
        yield ok(name, f'{found}: all have the same settings.')


CHECKS = (settings,)
