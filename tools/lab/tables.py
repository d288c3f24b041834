# SPDX-License-Identifier: Apache-2.0
"""What is in the tables, read beside Keystone with the same configuration."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db.connection import connect

#: Tables whose rows expire by themselves.
EXPIRING = (
    'token',
    'revocation',
    'revocation_log',
    'trust',
    'trust_use',
    'trust_by_trustor',
    'trust_by_trustee',
    'trust_by_project',
    'trust_claim',
    'application_credential',
    'application_credential_by_user',
    'application_credential_claim',
)


class Tables:
    """A view of the tables of one Keystone.

    :param config_files: its configuration files, in order.
    """

    def __init__(self, config_files: Sequence[str | Path]) -> None:
        conf = cfg.ConfigOpts()
        conf(
            args=[],
            project='keystone',
            default_config_files=[str(name) for name in config_files],
            default_config_dirs=[],
        )
        options.register_opts(conf)
        connection = connect(conf)
        self.keyspace: str = connection.keyspace
        self.execute = connection.session.execute
        self.close = connection.cluster.shutdown

    def token_row(self, audit_id: str) -> dict[str, Any] | None:
        """Return the row of the token with this audit id.

        Columns without a value are left out; ``ttl`` is the seconds that
        the row still has.
        """
        # The table is a demo's: reading all of it is no harm.
        rows = self.execute(
            'SELECT id_hash, user_id, project_id, methods, audit_ids,'
            ' issued_at, expires_at, TTL(expires_at) AS ttl'
            f' FROM {self.keyspace}."token"'
        )
        for row in rows:
            if audit_id in row['audit_ids']:
                return {k: v for k, v in row.items() if v is not None}
        return None

    def remaining_uses(self, trust_id: str) -> int | None:
        """Return the uses that a limited trust has left."""
        row = self.execute(
            f'SELECT remaining FROM {self.keyspace}.trust_use WHERE id = %s',
            (trust_id,),
        ).one()
        return None if row is None else row['remaining']

    def count(self) -> dict[str, int]:
        """Return how many live rows each expiring table has."""
        return {
            name: self.execute(
                f'SELECT COUNT(*) AS n FROM {self.keyspace}."{name}"'
            ).one()['n']
            for name in EXPIRING
        }


def drop_keyspace(config_files: Sequence[str | Path]) -> None:
    """Drop the keyspace that these configuration files name."""
    with contextlib.closing(Tables(config_files)) as tables:
        tables.execute(
            f'DROP KEYSPACE IF EXISTS {tables.keyspace}', timeout=60
        )


if __name__ == '__main__':
    drop_keyspace(sys.argv[1:])
