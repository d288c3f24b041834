# SPDX-License-Identifier: Apache-2.0
"""Regions: their rows, and the tree that they make.

All are in one partition, so one conditional batch can be about several.  A
region that comes to be below another gives those above it a new incarnation,
and a region is deleted together with those below it, if each still is what
was read.  So of two changes that do not go together the later one is made
again, on what the first one left: no region is below one that is gone, and
none is below itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from keystone import exception

from keystone_cassandra_token.compat import extras
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.rows import Row, json_map, text
from keystone_cassandra_token.db.store import KEEP, Store
from keystone_cassandra_token.tables import batches
from keystone_cassandra_token.tables.entity import Changes, Entity
from keystone_cassandra_token.tables.index import Indexes

REGION = Row(
    id=text(255),
    description=text(255, required=True),
    parent_region_id=text,  # a longer one is not there
    extra=json_map,
)
REGIONS = Entity(
    'region',
    REGION,
    Indexes(),
    guarded=['parent_region_id'],
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
)

Region = dict[str, Any]


def to_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a region names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(given, REGION, 'region')


def to_ref(region: Mapping[str, Any]) -> Region:
    """Return a region as the SQL driver returns it."""
    return extras.to_ref(region, REGION)


def create(db: Store, new: Region) -> bool:
    """Create a region; return whether its id was free.

    :param new: from ``REGIONS.new``.
    :raises keystone.exception.RegionNotFound: if its parent is not there.
    """
    parent_id = new['parent_region_id']
    if parent_id is None:
        return REGIONS.create(db, new)
    attempts = REGIONS.attempts(new['id'])
    while attempts.another():
        regions = _by_id(db)
        if parent_id not in regions:
            raise exception.RegionNotFound(region_id=parent_id)
        there = db.one(REGIONS.get, REGIONS.row, id=new['id'])
        if there is not None and REGIONS.exists(there):
            return False
        ghost = there or {'id': new['id'], 'incarnation': None}
        if _write(db, (ghost, new), (regions[parent_id], {})):
            return True


def change(
    db: Store,
    region_id: str,
    changes: Changes,
    check: Callable[[Region], object],
) -> Region | None:
    """Change a region; return what it has become, None if there is none.

    :param check: raises if the region, as it would be, must not have its
        parent.
    :raises keystone.exception.RegionNotFound: if its parent is not there.
    """
    parent_id = changes.get('parent_region_id')
    if parent_id is None:
        return REGIONS.change(db, region_id, changes)
    attempts = REGIONS.attempts(region_id)
    while attempts.another():
        regions = _by_id(db)
        if parent_id not in regions:
            raise exception.RegionNotFound(region_id=parent_id)
        old = regions.get(region_id)
        if old is None:
            return None
        above = _above(regions, parent_id)
        extra = (old['extra'] or {}) | (changes.get('extra') or {})
        new = {**old, **changes, 'extra': extra}
        check(to_ref(new))
        # None of these may be moved below this region meanwhile.
        others = [each for each in above if each['id'] != region_id]
        if _write(db, (old, changes), *((each, {}) for each in others)):
            return new


def remove(
    db: Store, region_id: str, used: Callable[[], Collection[str]]
) -> bool:
    """Delete a region and those below; return whether it was there.

    :param used: returns the ids of the regions that have endpoints; asked
        after the regions were read, so that an endpoint which comes later
        changes what was read.
    :raises keystone.exception.RegionDeletionError: if one of them has an
        endpoint.
    """
    attempts = REGIONS.attempts(region_id)
    while attempts.another():
        regions = _by_id(db)
        if region_id not in regions:
            return False
        gone = _below(regions, region_id)
        in_use = set(used())
        if any(region['id'] in in_use for region in gone):
            raise exception.RegionDeletionError(region_id=region_id)
        if _discard(db, gone):
            return True


def _by_id(db: Store) -> dict[str, Region]:
    return {region['id']: region for region in REGIONS.all(db)}


def _above(regions: Mapping[str, Region], region_id: str) -> list[Region]:
    """Return a region and those above it, as far as there are any.

    :raises keystone.exception.CircularRegionHierarchyError: if one of them
        is above itself, as servers of a former version could make it.
    """
    found: dict[str, Region] = {}
    above: str | None = region_id
    while above is not None and above in regions:
        if above in found:
            raise exception.CircularRegionHierarchyError(
                parent_region_id=above
            )
        found[above] = regions[above]
        above = regions[above]['parent_region_id']
    return list(found.values())


def _below(regions: Mapping[str, Region], region_id: str) -> list[Region]:
    """Return a region and those below it, each after those below it."""
    found = [regions[region_id]]
    for above in found:  # it grows meanwhile
        found += [
            region
            for region in regions.values()
            if region['parent_region_id'] == above['id']
            and region not in found
        ]
    return found[::-1]


def _write(db: Store, *changed: tuple[Mapping[str, Any], Changes]) -> bool:
    """Give regions new incarnations, all or none.

    Return False if another change of one of them was first.

    :param changed: what each is, and what changes beside its incarnation.
    """
    steps = []
    for old, changes in changed:
        incarnation = clock.incarnation()
        new = {'incarnation': incarnation, **changes}
        if old['incarnation'] and not old['born']:
            new['born'] = incarnation  # of a server of an older version
        stored = REGIONS.row.encode(new)
        key = (
            dict.fromkeys(REGIONS.row.columns, KEEP)
            | {n: value for n, value in stored.items() if value is not None}
            | {'id': old['id'], 'seen': old['incarnation']}
        )
        steps.append((REGIONS.update, key))
    return batches.all_or_none(db, REGIONS, steps)


def _discard(db: Store, regions: list[Region]) -> bool:
    """Delete these incarnations of regions, those below others first.

    Return whether all were there.
    """
    steps = list(map(REGIONS.deletion, regions))
    return all(
        batches.all_or_none(
            db, REGIONS, steps[begin : begin + batches.AT_ONCE]
        )
        for begin in range(0, len(steps), batches.AT_ONCE)
    )
