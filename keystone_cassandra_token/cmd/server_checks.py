# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor: do the servers that run fit each other?"""

from __future__ import annotations

from collections.abc import Iterator

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd.cluster_checks import SKEW_FAIL, SKEW_WARN
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

#: Seconds by which servers' clocks may differ where tokens note what they have
#: seen (ADR 0014).
_TOLERATED = 50.0


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


def server_clocks(
    connection: Connection, conf: cfg.ConfigOpts
) -> Iterator[Finding]:
    """The servers' clocks agree with those of the nodes."""
    if keyspace.replicas(connection) is None:
        return
    rows = connection.session.execute(servers.CLOCKS.text(connection.keyspace))
    is_noted = conf.token.provider == options.DRIVER
    most = _TOLERATED if is_noted else SKEW_FAIL
    for row in rows:
        ahead = servers.ahead(row)
        text = (
            f'server {row["host"]} ({row["datacenter"]}) is {ahead:+.1f} s'
            f' from the nodes, measured to {servers.ERROR:.0f} s'
        )
        sure = abs(ahead) - servers.ERROR
        advice = 'Check the time service (chrony, ntpd) there.'
        if sure > most:
            yield fail(
                'clock',
                f'{text}: beyond {most:.0f} s revocations of users and'
                ' projects miss tokens that were issued before them, or stop'
                f' others. {advice} Then revoke again what was revoked'
                ' meanwhile.',
            )
        elif sure > SKEW_WARN:
            yield warn(
                'clock',
                f'{text}. Revocations hold up to {most:.0f} s; but when'
                ' tokens and trusts end goes by this clock, and so does who'
                ' is let in without a password (application credential, TOTP,'
                f' federation) just after a revocation. {advice}',
            )
        else:
            yield ok('clock', f'{text}.')


CHECKS = (settings, server_clocks)
