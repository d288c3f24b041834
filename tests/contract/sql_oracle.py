# SPDX-License-Identifier: Apache-2.0
"""Keystone's own SQL drivers on SQLite in memory: what ours must equal."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keystone.conf
from keystone.common import sql


@contextlib.contextmanager
def sqlite(*models: Any) -> Iterator[Any]:
    """Give Keystone's SQL drivers an empty database with some tables.

    :param models: the classes of the tables to make.
    :returns: yields the SQLAlchemy engine.
    """
    conf = keystone.conf.CONF
    sql.initialize()
    conf.set_override('connection', 'sqlite://', 'database')
    sql.cleanup()
    try:
        with sql.session_for_write() as session:
            engine = session.get_bind()
        # As the databases that Keystone supports; not in a transaction.
        with contextlib.closing(engine.raw_connection()) as connection:
            connection.cursor().execute('PRAGMA foreign_keys = ON')
        sql.ModelBase.metadata.create_all(
            engine, tables=[model.__table__ for model in models]
        )
        yield engine
        engine.dispose()
    finally:
        sql.cleanup()
        conf.clear_override('connection', 'database')


def empty(*models: Any) -> None:
    """Delete all rows of some tables."""
    with sql.session_for_write() as session:
        for model in models:
            session.query(model).delete()
