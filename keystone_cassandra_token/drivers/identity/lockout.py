# SPDX-License-Identifier: Apache-2.0
"""Wrong passwords, and the lock-out to which they lead.

``failed_login`` has a row for each wrong password, newest first, in one
partition for each user and ``lock_epoch``.  The user's row says which epoch
counts.  A good log-in, the end of a lock-out, and an update that leaves the
user enabled give it a new one, so what no longer counts is in partitions that
nobody reads, and nothing is ever deleted: a row ends by its TTL.  The rows are
appended, so that attempts in several datacenters count together.

A count reads as many rows as lock a user, and no more are written than that
and those that are being checked at the same moment: whatever an attacker
does, no read passes many rows or tombstones.  Nothing is written while a user
is locked, or where nobody is ever locked.

Unlike with the SQL driver a wrong password that led to no lock-out is
forgotten after thirty days and ``lockout_duration``.
"""

from __future__ import annotations

import datetime
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from keystone.conf import CONF
from keystone.identity.backends import resource_options as options

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.cql import (
    lwt_local,
    lwt_local_read,
    read,
    write,
)
from keystone_cassandra_token.db.rows import Row, micros
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.identity import users

#: Seconds, beside the longest lock-out, for which a wrong password counts.
#: SQL counts it until the next good log-in.  Much longer than a lock-out, so
#: that who tries a few in each costs no partition more than a few tombstones.
REMEMBERED = 30 * 86400

FAILED_LOGIN = Row('user_id', 'lock_epoch', 'attempt', failed_at=micros)
FAILED_AT = FAILED_LOGIN.part(['failed_at'])

GET_FAILED = read(
    f'SELECT {FAILED_AT} FROM failed_login'
    ' WHERE user_id = :user_id AND lock_epoch = :lock_epoch LIMIT :most'
)
FAIL = write(
    f'INSERT INTO failed_login ({FAILED_LOGIN})'
    ' VALUES (:user_id, :lock_epoch, :attempt, :failed_at)'
)
FAIL_FOR_A_WHILE = FAIL.expiring()
# Who resets begins a new count; of two at once one does.
RESET = lwt_local(
    'UPDATE user SET lock_epoch = :lock_epoch WHERE id = :id'
    ' IF lock_epoch = :seen'
)
SETTLE_RESET = lwt_local_read('SELECT lock_epoch FROM user WHERE id = :id')

User = dict[str, Any]


def failed_at(db: Store, user: User) -> list[datetime.datetime]:
    """Return when the wrong passwords that count were tried, newest first.

    Of more than lock a user those that lock.  None, where nobody is locked.
    """
    most = _allowed(user)
    if not most:
        return []
    found = db.rows(
        GET_FAILED,
        FAILED_AT,
        user_id=user['id'],
        lock_epoch=user['lock_epoch'],
        most=most,
    )
    return [row['failed_at'] for row in found]


def is_locked(
    db: Store, user: User, failures: Sequence[datetime.datetime]
) -> bool:
    """Return whether a user is locked; end a lock-out that is over.

    :param failures: from :func:`failed_at`.
    """
    most = _allowed(user)
    if not most or len(failures) < most:
        return False
    lasting = CONF.security_compliance.lockout_duration
    if not lasting:
        return True  # until somebody enables the user
    if failures[0] + datetime.timedelta(seconds=lasting) > clock.utcnow():
        return True
    reset(db, user)
    return False


def count(db: Store, user: User) -> None:
    """Record a wrong password."""
    if not _allowed(user):
        return  # or anybody could let the table grow
    row = FAILED_LOGIN.encode(
        {
            'user_id': user['id'],
            'lock_epoch': user['lock_epoch'],
            # Each attempt at the same moment counts.
            'attempt': uuid.uuid4(),
            'failed_at': clock.utcnow(),
        }
    )
    lasting = CONF.security_compliance.lockout_duration
    if lasting:
        ttl = clock.cap_ttl(lasting + REMEMBERED)
        db.run(FAIL_FOR_A_WHILE, ttl=ttl, **row)
    else:
        db.run(FAIL, **row)


def reset(db: Store, user: User) -> None:
    """Begin a new count, unless another process did so."""
    seen, new = user['lock_epoch'], new_epoch()

    def applied(row: Mapping[str, Any] | None) -> bool | None:
        now = row and row['lock_epoch']
        return None if now == seen else now == new

    outcome = db.cas_settled(
        RESET,
        SETTLE_RESET,
        applied,
        id=user['id'],
        lock_epoch=new,
        seen=seen,
    )
    # What a next failure counts to; a user who is gone has none.
    now = new if outcome else outcome.row.get('lock_epoch')
    user['lock_epoch'] = new if now is None else now


def new_epoch() -> int:
    """Return a ``lock_epoch`` to which nothing counts yet.

    Random: where two datacenters change a user at once, or one changes it by
    what it read a while ago, a count that was left must not come back.
    Servers of the former version add 1 to it, for which there is room.
    """
    return secrets.randbits(30)


def _allowed(user: User) -> int:
    """Return how many wrong passwords lock a user, 0 for never."""
    if users.has_option(user, options.IGNORE_LOCKOUT_ATTEMPT_OPT):
        return 0
    return CONF.security_compliance.lockout_failure_attempts or 0
