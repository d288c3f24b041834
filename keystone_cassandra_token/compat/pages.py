# SPDX-License-Identifier: Apache-2.0
"""Lists of named entities of domains, page by page.

What a page costs grows with the page where a name or a domain is asked for,
and with what there is where neither is, as Keystone lists all for an
administrator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.compat import listing
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.index import Index
from keystone_cassandra_token.tables.named import Named

Entity = dict[str, Any]


def candidates(
    db: Store,
    hints: Hints,
    named: Named,
    by_domain: Index,
    everything: Statement,
) -> tuple[Iterable[Entity], bool]:
    """Return what a list is chosen from, after the marker.

    And whether it comes in the order of ids.

    :param by_domain: lists by ``domain_id``, where the hints name one.
    :param everything: a scan, where they name neither a name nor a domain.
    :raises keystone.exception.MarkerNotFound: if there is no such.
    """
    domain_id, name = (
        entry and entry['value']
        for entry in map(hints.get_exact_filter_by_name, ('domain_id', 'name'))
    )
    found: Iterable[Entity]
    if isinstance(name, str):
        comparison = db.conf.cassandra.name_comparison
        found = named.find_all(db, folded_name=listing.fold(name, comparison))
    elif isinstance(domain_id, str):
        _check_marker(db, hints, named)
        return _of_domain(db, hints, named, by_domain, domain_id), True
    else:
        found = named.entity.scanned(db, everything)
    return after_marker(db, hints, named, found), False


def after_marker(
    db: Store, hints: Hints, named: Named, found: Iterable[Entity]
) -> Iterable[Entity]:
    """Return those of some entities that are after the marker.

    :raises keystone.exception.MarkerNotFound: if there is no such.
    """
    marker = hints.marker
    if marker is None:
        return found
    _check_marker(db, hints, named)
    return (entity for entity in found if entity['id'] > marker)


def _check_marker(db: Store, hints: Hints, named: Named) -> None:
    marker = hints.marker
    if marker is not None and not named.entity.find(db, marker):
        raise exception.MarkerNotFound(marker=marker)


def _of_domain(
    db: Store, hints: Hints, named: Named, by_domain: Index, domain_id: str
) -> Iterator[Entity]:
    """Yield the entities of a domain after the marker, by id."""
    most = hints.get_limit_or_max()
    ids = by_domain.ids_after(db, domain_id, hints.marker, most)
    while some := list(itertools.islice(ids, max(16, most))):
        for entity in named.entity.find_all(db, some):
            if domain_id in by_domain.values(entity):
                yield entity
