# SPDX-License-Identifier: Apache-2.0
"""How long a revocation is kept: one value for all servers, that only grows.

A revocation must outlive every token it stops, whichever server issued it.
With a TTL of its own on each server the newest event would win with its own,
perhaps shorter, TTL and give a revoked token back.  So the TTL is a setting
of the keyspace.  Two rows hold it: ``revocation_ttl`` is what a revocation
gets; ``revocation_ttl_everywhere`` is what a token may count on, and is only
raised after the former has been read at EACH_QUORUM, from when on no
datacenter can miss it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.cql import (
    Statement,
    escalated_read,
    lwt_global,
    lwt_global_read,
    revocation_read,
)
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store

TTL = 'revocation_ttl'
EVERYWHERE = 'revocation_ttl_everywhere'

SETTING = Row('value')

GET = revocation_read('SELECT value FROM schema_setting WHERE name = :name')
GET_EVERYWHERE = escalated_read(
    'SELECT value FROM schema_setting WHERE name = :name'
)
SETTLE = lwt_global_read('SELECT value FROM schema_setting WHERE name = :name')
# Servers of several datacenters may raise it at once; the highest must stay.
SET = lwt_global(
    'INSERT INTO schema_setting (name, value) VALUES (:name, :value)'
    ' IF NOT EXISTS'
)
RAISE = lwt_global(
    'UPDATE schema_setting SET value = :value WHERE name = :name'
    ' IF value = :seen'
)


def needed(conf: cfg.ConfigOpts) -> int:
    """Return the seconds a revocation must last for this server's tokens."""
    return int(
        conf.token.expiration
        + conf.token.allow_expired_window
        + conf.revoke.expiration_buffer
    )


class RevocationTTL:
    """The setting as one server sees it."""

    def __init__(self, db: Store) -> None:
        self._db = db
        self._sure = 0
        self._seen = 0

    def current(self) -> int:
        """Return the TTL in seconds that a revocation needs now."""
        return self.current_async()[1].result()

    def current_async(self) -> tuple[int, Future[int]]:
        """Return the TTL last seen, and the future of today's.

        Another server may have raised it a moment ago and already issue
        longer tokens, so each revocation asks; it need not wait for the
        answer before it writes with the value last seen, only before it is
        acknowledged.
        """

        def seen(row: Mapping[str, str] | None) -> int:
            self._seen = max(_seconds(row), needed(self._db.conf))
            return self._seen

        current = self._db.one_async(GET, SETTING, name=TTL).then(seen)
        return max(self._seen, needed(self._db.conf)), current

    def ensure(self, seconds: int) -> None:
        """Make sure that from now on revocations last ``seconds``.

        To be called before a token is issued that lives as long; costs
        nothing once it was true.

        :raises StoreUnavailable: if it has to be raised and some datacenter
            cannot agree.
        """
        if seconds <= self._sure:
            return
        everywhere = self.read(GET, EVERYWHERE)
        if everywhere < seconds:
            self._raise(TTL, seconds)
            seen = self.read(GET_EVERYWHERE, TTL)
            if seen < seconds:
                raise errors.StoreUnavailable(
                    f'The revocation TTL of {seconds} s is not yet known in'
                    ' every region (datacenter); retry.'
                )
            self._raise(EVERYWHERE, seconds)
            everywhere = seconds
        self._sure = seconds
        # What a revocation gets is never less than what tokens count on.
        self._seen = max(self._seen, everywhere)

    def read(self, statement: Statement, name: str) -> int:
        return _seconds(self._db.one(statement, SETTING, name=name))

    def _raise(self, name: str, seconds: int) -> None:
        seen = self.read(SETTLE, name)
        attempts = Attempts('setting', name)
        while seen < seconds and attempts.another():
            seen = self._raise_from(seen, name, seconds)

    def _raise_from(self, seen: int, name: str, seconds: int) -> int:
        """Raise a value that was seen; return what it is then."""

        def raised(row: Mapping[str, Any] | None) -> bool | None:
            now = _seconds(row)
            return None if now == seen else now >= seconds

        write, before = (RAISE, {'seen': str(seen)}) if seen else (SET, {})
        outcome = self._db.cas_settled(
            write, SETTLE, raised, name=name, value=str(seconds), **before
        )
        return seconds if outcome else _seconds(outcome.row)


def _seconds(row: Mapping[str, Any] | None) -> int:
    return int(row['value']) if row else 0
