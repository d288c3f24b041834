# SPDX-License-Identifier: Apache-2.0
"""Opaque ids: what nobody can guess, and of which only a hash is stored.

An id is a prefix, which names its kind and the version of its format, and
43 characters of base64url, 32 bytes::

    2  a hash of the name of the datacenter that issued it
    3  the minute of issue, since 2020-01-01 UTC, big endian
    19 random
    8  the tag: of an HMAC over all before it, with ``[cassandra] token_key``;
       random where that is not set

So nobody who reads the tables can use one, and with the key nobody who writes
them can make one.  The first bytes are a hint where to look for what is not
yet here; the tag tells what was issued from what was invented, without a look
at any table.  Ids of the former version are random as a whole: all versions
accept all of them.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Any, TypeGuard

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import clock, errors, escalation
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.store import Store

_DATACENTER, _MINUTE, _RANDOM, _TAG = 2, 3, 19, 8
#: Characters of the tag: all before it are whole bytes.
_TAG_LENGTH = 11

_BEGIN = datetime.datetime(2020, 1, 1)
_A_MINUTE = datetime.timedelta(minutes=1)
_MINUTES = 1 << 8 * _MINUTE
#: Before what a tag is made of; what is stored is made of an id, and no id
#: begins so.
_LABEL = b'tag '


@dataclasses.dataclass(frozen=True)
class Hint:
    """What an id says of where and when it was issued.

    :ivar is_tagged: whether it has its tag, so is no invention.
    :ivar minute: of issue, since 2020-01-01 UTC.
    :ivar datacenter: a hash of its name.
    """

    is_tagged: bool
    minute: int
    datacenter: bytes

    def among(self, names: Iterable[str]) -> list[str]:
        """Return which of some datacenters can have issued it."""
        return sorted(x for x in names if _hashed_name(x) == self.datacenter)

    def is_fresh(self) -> bool:
        """Return whether it may have been issued a moment ago."""
        ago = (_minute() - self.minute) % _MINUTES
        if ago > _MINUTES // 2:  # by a clock that is ahead
            ago -= _MINUTES
        return escalation.is_fresh(clock.utcnow() - ago * _A_MINUTE)


class OpaqueIds:
    """Ids of one kind.

    :param prefix: with which they begin.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._format = re.compile(rf'{prefix}[A-Za-z0-9_-]{{43}}')

    def find(
        self, db: Store, get: Statement, row: Row, value: Any
    ) -> dict[str, Any] | None:
        """Return the row of an id, or None.

        What is not here, and was issued by another datacenter a moment ago,
        is read there.

        :param get: reads it, by ``id_hash``.
        """
        if not self.fits(db.conf, value):
            return None
        id_hash = hashed(db.conf, value)
        found = db.one(get, row, id_hash=id_hash)
        if found is not None or db.escalation is None:
            return found
        hint = self.hint(db.conf, value)
        if hint is None or not hint.is_fresh():
            return None
        return db.escalation.ask(
            (get.table, id_hash),
            lambda there: there.one(get, row, id_hash=id_hash),
            hint.among,
            is_known=hint.is_tagged,
        )

    def make(self, conf: cfg.ConfigOpts, datacenter: str) -> str:
        """Return a new id.

        :param datacenter: the one that issues it.
        :raises StoreUnavailable: if the key cannot be read.
        """
        key = _key(conf)
        signed = self._prefix + _text(
            _hashed_name(datacenter)
            + _minute().to_bytes(_MINUTE, 'big')
            + secrets.token_bytes(_RANDOM)
        )
        return signed + (
            _tag(key, signed) if key else _text(secrets.token_bytes(_TAG))
        )

    def fits(self, conf: cfg.ConfigOpts, value: Any) -> bool:
        """Return whether a value can be such an id, so is worth a query.

        :raises StoreUnavailable: if the key cannot be read.
        """
        if not self._has_format(value):
            return False
        if conf.cassandra.accept_untagged_ids:
            return True
        key = _key(conf)
        return not key or _is_tagged(key, value)

    def hint(self, conf: cfg.ConfigOpts, value: Any) -> Hint | None:
        """Return what an id says; None of what cannot be one.

        What one of the former version says is arbitrary.

        :raises StoreUnavailable: if the key cannot be read.
        """
        if not self._has_format(value):
            return None
        begin = len(self._prefix)
        # Eight characters are six bytes.
        stated = base64.urlsafe_b64decode(value[begin : begin + 8])
        key = _key(conf)
        return Hint(
            is_tagged=bool(key) and _is_tagged(key, value),
            minute=int.from_bytes(
                stated[_DATACENTER : _DATACENTER + _MINUTE], 'big'
            ),
            datacenter=stated[:_DATACENTER],
        )

    def _has_format(self, value: object) -> TypeGuard[str]:
        return isinstance(value, str) and bool(self._format.fullmatch(value))


def hashed(conf: cfg.ConfigOpts, opaque_id: str) -> bytes:
    """Return what is stored of an id.

    :raises StoreUnavailable: if the key cannot be read.
    """
    key = _key(conf)
    if key:
        return hmac.digest(key, opaque_id.encode(), 'sha256')
    return hashlib.sha256(opaque_id.encode()).digest()


def _key(conf: cfg.ConfigOpts) -> bytes:
    """Return ``token_key``; empty if there is none."""
    try:
        key = options.secret(conf, 'token_key')
    except options.ConfigurationError as error:
        raise errors.StoreUnavailable(str(error)) from None
    return (key or '').encode()


def _tag(key: bytes, signed: str) -> str:
    # Of the text, of which there is one for the bytes.
    made = hmac.digest(key, _LABEL + signed.encode(), 'sha256')
    return _text(made[:_TAG])


def _is_tagged(key: bytes, opaque_id: str) -> bool:
    signed, tag = opaque_id[:-_TAG_LENGTH], opaque_id[-_TAG_LENGTH:]
    return hmac.compare_digest(tag, _tag(key, signed))


def _hashed_name(datacenter: str) -> bytes:
    return hashlib.sha256(datacenter.encode()).digest()[:_DATACENTER]


def _minute() -> int:
    """Return this minute, since 2020-01-01 UTC; after 31 years from 0 on."""
    passed: int = (clock.utcnow() - _BEGIN) // _A_MINUTE
    return passed % _MINUTES


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b'=').decode()
