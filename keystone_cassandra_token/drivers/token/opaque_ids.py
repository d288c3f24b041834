# SPDX-License-Identifier: Apache-2.0
"""Opaque ids: what nobody can guess, and of which only a hash is stored.

An id is a prefix, which names its kind and the version of its format, and
256 random bits.  So nobody who reads the tables can use one, and with
``[cassandra] token_key`` nobody who writes them can make one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TypeGuard

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import errors

_BYTES = 32


class OpaqueIds:
    """Ids of one kind.

    :param prefix: with which they begin.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._format = re.compile(rf'{prefix}[A-Za-z0-9_-]{{43}}')

    def make(self) -> str:
        """Return a new id."""
        return self._prefix + secrets.token_urlsafe(_BYTES)

    def fits(self, value: object) -> TypeGuard[str]:
        """Return whether a value can be such an id, so is worth a query."""
        return isinstance(value, str) and bool(self._format.fullmatch(value))


def hashed(conf: cfg.ConfigOpts, opaque_id: str) -> bytes:
    """Return what is stored of an id.

    :raises StoreUnavailable: if the key cannot be read.
    """
    try:
        key = options.secret(conf, 'token_key')
    except options.ConfigurationError as error:
        raise errors.StoreUnavailable(str(error)) from None
    if key:
        return hmac.digest(key.encode(), opaque_id.encode(), 'sha256')
    return hashlib.sha256(opaque_id.encode()).digest()
