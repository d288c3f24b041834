# SPDX-License-Identifier: Apache-2.0
"""What became of a conditional write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import cassandra

from keystone_cassandra_token.db import errors


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a conditional write; it must be used.

    :ivar applied: whether the condition held.
    :ivar row: otherwise the values that made it fail, empty if there is no
        such row.
    """

    applied: bool
    row: Mapping[str, Any]

    def __bool__(self) -> bool:
        return self.applied


#: Tells from a row, or None where there is none, whether a conditional write
#: was applied; None if nobody can tell.
Applied = Callable[[Mapping[str, Any] | None], bool | None]


def created(*incarnations: object) -> Applied:
    """Return what tells whether rows were created with these incarnations."""
    return lambda row: (
        None if row is None else row['incarnation'] in incarnations
    )


def deleted(incarnation: object) -> Applied:
    """Return what tells whether a row of this incarnation was deleted.

    For rows that are created and deleted, and never changed.
    """
    return lambda row: (
        None if row and row['incarnation'] == incarnation else True
    )


def settled(
    write: Callable[[], Outcome],
    look: Callable[[], Outcome | None],
    resent: bool = True,
) -> Outcome:
    """Run a conditional write; where its reply is lost, look.

    What a node that hangs was sent is sent to another one, if it was not done.

    :param look: returns None where nobody can tell.
    :param resent: whether to send it again, see :class:`~.cql.Statement`.
    :raises OutcomeUnknown: if that cannot be found out.
    """
    try:
        return write()
    except errors.OutcomeUnknown as unknown:
        found = _seen(look)
        if found is not None:
            return found
        if not resent or not isinstance(
            unknown.__cause__, cassandra.OperationTimedOut
        ):
            raise
        lost = unknown
    try:
        outcome = write()
    except errors.StoreUnavailable:
        # Even if this one was not sent, the first one was.
        outcome = None
    if outcome:
        return outcome
    # What refuses it may be what was sent first.
    found = _seen(look)
    if found is None:
        raise lost
    return found


def _seen(look: Callable[[], Outcome | None]) -> Outcome | None:
    try:
        return look()
    except errors.StoreUnavailable:
        return None
