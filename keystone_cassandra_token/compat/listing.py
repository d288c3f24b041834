# SPDX-License-Identifier: Apache-2.0
"""Keystone's list hints on rows that were read: filters, limits, pages.

The counterpart of the SQL drivers' ``filter_limit_query``: a filter on a
known attribute is satisfied here and removed from ``hints.filters``; what
stays is left to Keystone.
"""

from __future__ import annotations

import heapq
import itertools
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

from keystone.common import utils
from keystone.common.driver_hints import Hints

Entity = dict[str, Any]

_INEXACT: dict[str, Callable[[str, str], bool]] = {
    'contains': lambda text, part: part in text,
    'startswith': lambda text, part: text.startswith(part),
    'endswith': lambda text, part: text.endswith(part),
}


def fold(name: str, comparison: str) -> str:
    """Return the key under which a name is compared.

    :param comparison: ``insensitive`` or ``sensitive``, a property of the
        keyspace.  Accents and trailing spaces count in both.
    """
    normal = unicodedata.normalize('NFC', name)
    if comparison == 'sensitive':
        return normal
    return unicodedata.normalize('NFC', normal.casefold())


def filter_by_hints(
    entities: Iterable[Entity],
    hints: Hints | None,
    attributes: Collection[str],
    comparison: str,
) -> list[Entity]:
    """Return the entities that all known filters let pass.

    :param attributes: what can be filtered by; other filters stay in the
        hints.
    """
    passes = predicate_from_hints(hints, attributes, comparison)
    return [entity for entity in entities if passes(entity)]


def predicate_from_hints(
    hints: Hints | None, attributes: Collection[str], comparison: str
) -> Callable[[Entity], bool]:
    """Return whether an entity passes the filters that are known here.

    Those are removed from the hints; parameters as for
    :func:`filter_by_hints`.
    """
    tests = []
    if hints is not None:
        for entry in list(hints.filters):
            if entry['name'] not in attributes:
                continue
            test = _test(entry, comparison)
            if test is not None:
                tests.append(test)
                hints.filters.remove(entry)
    return lambda entity: all(test(entity) for test in tests)


def _test(
    entry: dict[str, Any], comparison: str
) -> Callable[[Entity], bool] | None:
    """Return whether an entity passes a filter; None if not known here."""
    name, value = entry['name'], entry['value']
    if entry['comparator'] == 'equals':

        def equals(entity: Entity) -> bool:
            stored = entity.get(name)
            if isinstance(stored, bool):
                return stored is bool(utils.attr_as_boolean(value))
            if isinstance(stored, str) and isinstance(value, str):
                return fold(stored, comparison) == fold(value, comparison)
            return bool(stored == value)

        return equals
    matches = _INEXACT.get(entry['comparator'])
    if matches is None or entry['case_sensitive']:
        return None  # as the SQL drivers: left to Keystone
    part = str(value).lower()

    def inexact(entity: Entity) -> bool:
        # Always without case, as SQL's ILIKE.
        stored = entity.get(name)
        return stored is not None and matches(str(stored).lower(), part)

    return inexact


def limit(entities: list[Entity], hints: Hints | None) -> list[Entity]:
    """Cut a list to the hints' limit and note that it was cut.

    Only where no filter is left: Keystone would filter a cut list further.
    """
    if hints is None or hints.limit is None or hints.filters:
        return entities
    longest = hints.limit['limit']
    if len(entities) > longest:
        hints.limit['truncated'] = True
        return entities[:longest]
    return entities


def page(
    hints: Hints, found: Iterable[Entity], in_order: bool
) -> list[Entity]:
    """Return what fits in a page, by id, and note that there may be more.

    As the SQL drivers that page, also where Keystone has filters left.

    :param in_order: whether ``found`` comes in the order of ids.
    """
    most = hints.get_limit_or_max()
    if in_order:
        chosen = list(itertools.islice(found, most))
    else:
        chosen = heapq.nsmallest(most, found, key=lambda entity: entity['id'])
    if hints.limit and len(chosen) >= hints.limit['limit']:
        hints.limit['truncated'] = True
    return chosen
