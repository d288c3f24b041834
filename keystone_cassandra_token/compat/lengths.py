# SPDX-License-Identifier: Apache-2.0
"""What the columns of Keystone's SQL models refuse.

Cassandra's ``text`` has no length, and its columns can all be null; a string
that is too long for SQL, or a None, must be refused here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone import exception
from keystone.i18n import _

from keystone_cassandra_token.db.rows import Row


def check(values: Mapping[str, Any], row: Row, kind: str) -> None:
    """Check values, of some columns, by what their row says of them.

    :param kind: what Keystone calls such an entity.
    :raises keystone.exception.StringLengthExceeded: as the SQL models.
    :raises keystone.exception.UnexpectedError: for a None in a column that
        is required.  With SQL it is this, or oslo.db's exception; Keystone
        answers 500 to either.
    """
    for name, column in row.columns.items():
        value, longest = values.get(name), column.length
        # As in SQL's models, which make text of what is none.
        if longest and value is not None and len(str(value)) > longest:
            raise exception.StringLengthExceeded(
                string=value, type=name, length=longest
            )
    if any(name in values and values[name] is None for name in row.required):
        raise not_stored(kind)


def not_stored(kind: str) -> exception.UnexpectedError:
    """Return what SQL's drivers raise where the database refuses a value."""
    return exception.UnexpectedError(
        _('An unexpected error occurred when trying to store %s') % kind
    )
