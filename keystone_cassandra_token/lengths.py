# SPDX-License-Identifier: Apache-2.0
"""Lengths of strings, as Keystone's SQL models bound them.

Cassandra's ``text`` has no length; a string that SQL refuses must be refused
here too, with the same exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone import exception


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
