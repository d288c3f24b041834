# SPDX-License-Identifier: Apache-2.0
"""Cassandra, as far as the model of unique names needs it.

A table of claims, which all datacenters agree on, and a table of base rows,
which each datacenter agrees on by itself and tells the others later.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

#: Who wrote something, and which of their writes it is, by number.
Stamp = tuple[int, int]


class Claim(NamedTuple):
    """A row of the claim table."""

    owner: str
    stamp: Stamp | None  # None, in a condition: whatever it is


class Name(NamedTuple):
    """A name as a base row has it, with the claim it was written under.

    ``shared`` is whether that was another attempt's of the same owner.
    """

    name: str
    stamp: Stamp | None
    shared: bool = False


class Cell(NamedTuple):
    """A column of a base row; the later timestamp wins."""

    time: int
    value: Any


class BaseRow(NamedTuple):
    """A base row in one datacenter; absent if all of it is null."""

    name: Cell
    incarnation: Cell
    born: Cell


class Seen(NamedTuple):
    """A base row as it is read."""

    name: Name | None
    incarnation: Stamp | None
    born: Stamp | None

    def has(self, name: str) -> bool:
        return self.name is not None and self.name.name == name


NULL = Cell(0, None)
ABSENT = BaseRow(NULL, NULL, NULL)


class OnClaim(NamedTuple):
    """A compare-and-set of a claim; the reply is True, or what is there."""

    name: str
    seen: Claim | None
    new: Claim | None


class OnRow(NamedTuple):
    """A compare-and-set of a base row, in one datacenter."""

    datacenter: int
    id: str
    seen: Stamp | None
    kind: str  # create, rename, fence, bury, delete
    name: Name | None
    incarnation: Stamp | None


class ReadRow(NamedTuple):
    """A read of a base row in a datacenter; None is in all of them."""

    datacenter: int | None
    id: str


class ReadClaim(NamedTuple):
    """A read of a claim."""

    name: str


class IsOld(NamedTuple):
    """Whether a claim is old enough to be taken over: both are tried."""


Request = OnClaim | OnRow | ReadRow | ReadClaim | IsOld
UNKNOWN = '?'


def seen(*rows: BaseRow) -> Seen:
    """Return a row as it is read, merged."""
    row = functools.reduce(merged, rows)
    return Seen(*(cell.value for cell in row))


def merged(row: BaseRow, other: BaseRow) -> BaseRow:
    return BaseRow(
        *(
            max(pair, key=lambda cell: cell.time)
            for pair in zip(row, other, strict=True)
        )
    )


def matches(claim: Claim | None, seen: Claim | None) -> bool:
    if claim is None or seen is None:
        return claim is seen
    return claim.owner == seen.owner and seen.stamp in (None, claim.stamp)


def written(
    request: OnRow, rows: tuple[BaseRow, ...]
) -> Iterator[tuple[BaseRow, ...]]:
    """Give what a write makes of a row, the latest timestamp first.

    It is later than all that its datacenter has, and earlier or later than
    what others have.
    """
    at = request.datacenter
    own = max(cell.time for cell in rows[at])
    times = {cell.time for row in rows for cell in row}
    for time in sorted({own, *(each for each in times if each > own)})[::-1]:
        # Times are even, so that there is one between two of them.
        row = rows[at]._replace(
            incarnation=Cell(time + 1, request.incarnation)
        )
        if request.kind != 'fence':
            row = row._replace(name=Cell(time + 1, request.name))
        if request.kind == 'create':
            row = row._replace(born=row.incarnation)
        if request.kind in ('bury', 'delete'):
            row = row._replace(born=Cell(time + 1, None))
        if request.kind == 'delete':
            row = row._replace(incarnation=Cell(time + 1, None))
        yield (*rows[:at], row, *rows[at + 1 :])


def ranked(rows: tuple[BaseRow, ...]) -> tuple[BaseRow, ...]:
    """Return rows with the smallest timestamps that are in the same order."""
    if len(rows) == 1:
        # Nothing is compared with them.
        return (BaseRow(*(NULL._replace(value=c.value) for c in rows[0])),)
    times = sorted({0, *(cell.time for row in rows for cell in row)})
    rank = {time: 2 * number for number, time in enumerate(times)}
    return tuple(
        BaseRow(*(Cell(rank[cell.time], cell.value) for cell in row))
        for row in rows
    )
