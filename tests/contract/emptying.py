# SPDX-License-Identifier: Apache-2.0
"""Tables of a run's keyspace, emptied between two lives of a test."""

from keystone_cassandra_token.db.store import Store


def truncate(store: Store, keyspace: str, *tables: str) -> None:
    """Empty those of the tables in which there is anything."""
    session = store.sessions.get().session
    for table in tables:
        name = f'{keyspace}."{table}"'
        if session.execute(f'SELECT * FROM {name} LIMIT 1').one():
            session.execute(f'TRUNCATE {name}', timeout=60)
