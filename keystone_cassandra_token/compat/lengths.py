# SPDX-License-Identifier: Apache-2.0
"""What the columns of Keystone's SQL models refuse.

Cassandra's ``text`` has no length, and its columns can all be null; a string
that is too long for SQL, or a None, must be refused here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from keystone import exception
from keystone.i18n import _


def check(values: Mapping[str, Any], limits: Mapping[str, int]) -> None:
    """Check strings against their longest length, in characters.

    :raises keystone.exception.StringLengthExceeded: as the SQL models.
    """
    for name, longest in limits.items():
        value = values.get(name)
        if isinstance(value, str) and len(value) > longest:
            raise exception.StringLengthExceeded(
                string=value, type=name, length=longest
            )


def check_null(
    values: Mapping[str, Any], needed: Collection[str], kind: str
) -> None:
    """Check that what SQL's columns need is not None, if it is named.

    :param kind: what Keystone calls such an entity.
    :raises keystone.exception.UnexpectedError: for a None.  With SQL it is
        this, or oslo.db's exception; Keystone answers 500 to either.
    """
    if any(name in values and values[name] is None for name in needed):
        raise not_stored(kind)


def not_stored(kind: str) -> exception.UnexpectedError:
    """Return what SQL's drivers raise where the database refuses a value."""
    return exception.UnexpectedError(
        _('An unexpected error occurred when trying to store %s') % kind
    )
