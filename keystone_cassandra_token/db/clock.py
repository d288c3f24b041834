# SPDX-License-Identifier: Apache-2.0
"""Time: the one place that asks for it, and that tests patch.

Times are naive UTC ``datetime`` as everywhere in Keystone, and stored as
``bigint`` microseconds since 1970: CQL's ``timestamp`` keeps milliseconds
only, Keystone promises microseconds.
"""

from __future__ import annotations

import datetime
import math
import secrets
import uuid

from oslo_utils import timeutils

#: Begin of the node of each incarnation.  No network card has such an address
#: (RFC 9562: its first byte is odd), nor have servers of older versions.
_NODE = 0x4B4354 << 24
_NODE_OF_SECOND_TRY = _NODE ^ 1 << 24

EPOCH = datetime.datetime(1970, 1, 1)  # naive UTC, as Keystone's times

#: Cassandra refuses longer TTLs (20 years).
MAX_TTL = 20 * 365 * 24 * 3600

# With storage_compatibility_mode CASSANDRA_4 or UPGRADING a row that would
# expire after 2038-01-19T03:14:06 is refused (CASSANDRA-14092).
_LAST_EXPIRY = datetime.datetime(2038, 1, 19, 3, 14, 5)


def utcnow() -> datetime.datetime:
    """Return the present as naive UTC."""
    return timeutils.utcnow()  # type: ignore[no-any-return]


def to_micros(value: datetime.datetime) -> int:
    """Return microseconds since 1970 of a naive or aware time."""
    delta = timeutils.normalize_time(value) - EPOCH
    return delta // datetime.timedelta(microseconds=1)  # type: ignore[no-any-return]


def from_micros(value: int) -> datetime.datetime:
    """Return the naive UTC time of microseconds since 1970."""
    return EPOCH + datetime.timedelta(microseconds=value)


def incarnation(node: int = _NODE) -> uuid.UUID:
    """Return a time-based UUID that marks one life of an entity.

    An id can come back after its entity was deleted; this does not.  Its
    node tells nothing of this machine.
    """
    return uuid.uuid1(node | secrets.randbits(24), secrets.randbits(14))


def of_second_try() -> uuid.UUID:
    """Return an incarnation whose first try may still be applied, late."""
    return incarnation(_NODE_OF_SECOND_TRY)


def is_of_second_try(born: uuid.UUID | None) -> bool:
    """Return whether an entity was created by :func:`of_second_try`."""
    return born is not None and born.node >> 24 == _NODE_OF_SECOND_TRY >> 24


def is_former(incarnation: uuid.UUID) -> bool:
    """Return whether a server of an older version made an incarnation.

    It did not write ``born``.
    """
    return incarnation.node >> 24 != _NODE >> 24


def micros_of(incarnation: uuid.UUID) -> int:
    """Return when an incarnation was made, in microseconds since 1970."""
    since_gregorian = 0x01B21DD213814000  # 1582-10-15 to 1970, in 100 ns
    return (incarnation.time - since_gregorian) // 10


def ttl_until(end: datetime.datetime, extra: int = 0) -> int:
    """Return the TTL in seconds of a row that lives until ``end`` + extra.

    Rounded up, and capped at what Cassandra stores.  0 or less means that
    the row has no life left and must not be written.
    """
    now = utcnow()
    left = timeutils.normalize_time(end) - now
    return cap_ttl(math.ceil(left.total_seconds()) + extra)


def cap_ttl(ttl: int) -> int:
    """Return ``ttl`` capped at what Cassandra stores."""
    longest = math.floor((_LAST_EXPIRY - utcnow()).total_seconds())
    return min(ttl, MAX_TTL, longest)


def check_ttl(ttl: object) -> None:
    """Refuse what is no time to live.

    :raises ValueError: then.
    """
    # Null, unset and 0 all mean "for ever".
    if not isinstance(ttl, int) or not 0 < ttl <= MAX_TTL:
        raise ValueError(f'a TTL is 1 to {MAX_TTL} s, not {ttl!r}')
