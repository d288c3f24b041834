# SPDX-License-Identifier: Apache-2.0
"""A model of the protocol that keeps names unique (ADR 0011).

:class:`Attempt` spells it out as ``tables/unique.py``, ``named.py``,
``entity.py`` and ``fence.py`` implement it: one generator for each procedure,
which yields requests to Cassandra and is sent the replies.  A procedure ends
with the next one and its arguments.  So the state of an attempt is a
procedure, its arguments and the few replies since: a small tuple, and a loop
leads back to states that were seen before.
:mod:`tests.unit.names_world` lets all happen to attempts that can happen.

Not in the model: reads that fail; markers that expire; rows of former
versions, without stamps; several names of one entity; a datacenter that writes
with an earlier timestamp than those that it has received from others. A read
in all datacenters is one step.

Why a creation is sent once: an ID that is deleted without a marker would come
back, without its claim, if one of two copies is applied after the deletion::

    create X N: claims N; row of X, not answered; sent again, applied
    delete X:   row of X deleted
    late:       the first copy of the row is applied
    delete X:   claim of N freed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, NamedTuple

from tests.unit.names_cassandra import (
    UNKNOWN,
    Claim,
    IsOld,
    Name,
    OnClaim,
    OnRow,
    ReadClaim,
    ReadRow,
    Request,
    Seen,
    Stamp,
)


class Next(NamedTuple):
    """Which procedure comes next."""

    procedure: str
    args: tuple[Any, ...] = ()


class Ended(NamedTuple):
    """What an attempt has told its caller."""

    outcome: str


Steps = Generator[Request, Any, Next | Ended]


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the protocol looks after.  One that is off is a mutation."""

    #: A claim whose owner has not the name is taken over.
    take_over: bool = True
    #: The owner is fenced before that, in each datacenter.
    fence: bool = True
    #: It is looked at once more after that.
    look_again: bool = True
    #: A claim is freed if it has the stamp alone.
    compare_stamp: bool = True
    #: What is another attempt's, too, is not given back.
    keep_shared: bool = True
    #: Nor is it freed by the row whose name was written under it.
    leave_shared: bool = True
    #: The claim is made sure of before a marker is replaced,
    renew_at_marker: bool = True
    #: and in each further round of a rename.
    renew_in_rounds: bool = True
    #: A deletion leaves a marker; off for ids that do not come back.
    bury: bool = True
    #: The row has the stamp of its name; else the claim is read.
    stamp_in_row: bool = True
    #: An unknown outcome is settled by a fence, and not by a read.
    settle_by_fence: bool = True
    #: Also if there is an entity by now, with the incarnation it was for.
    settle_seen: bool = True
    #: What was made is known by stamps and birth, and not by incarnation.
    mine_by_stamp: bool = True
    #: What is written is what was claimed.
    write_as_claimed: bool = True
    #: An entity exists if it has been born, not by its name alone.
    born: bool = True


Held = tuple[Name, ...]


class Attempt:
    """One call, by one server, of one operation.

    :param number: which one it is.
    :param datacenter: of the server.
    :param datacenters: how many there are.
    :param made: how many stamps and incarnations it has made so far.
    """

    def __init__(
        self,
        rules: Rules,
        number: int,
        datacenter: int,
        datacenters: int,
        made: int,
    ) -> None:
        self.rules = rules
        self.number = number
        self.here = datacenter
        self.datacenters = tuple(range(datacenters))
        self.made = made

    def new(self) -> Stamp:
        self.made += 1
        return (self.number, self.made)

    def exists(self, row: Seen) -> bool:
        return row.name is not None and (
            row.born is not None or not self.rules.born
        )

    # Operations.

    def create(self, owner: str, name: str) -> Steps:
        row = yield ReadRow(self.here, owner)
        if self.exists(row):
            return Ended('conflict')
        then = Next('create_row', (owner, name, None))
        return Next('claim', (owner, name, (), then))

    def rename(self, owner: str, wanted: str, held: Held = ()) -> Steps:
        """Rename to a name, or with ``*`` to the other one of two."""
        row = yield ReadRow(self.here, owner)
        if not self.exists(row):
            return Next('give_back', (owner, held, 'gone'))
        held = tuple(each for each in held if each != row.name)
        name = self.computed(wanted, row)
        if row.has(name):
            return Next('give_back', (owner, held, 'renamed'))
        stamp = None
        if not self.rules.stamp_in_row:
            stamp = yield from self.stamp_of(owner, row)
        then = Next('rename_row', (owner, wanted, name, row, stamp))
        if name not in _names(held):
            return Next('claim', (owner, name, held, then))
        if self.rules.renew_in_rounds:
            return Next('renew', (owner, name, held, then))
        return Next(then.procedure, (*then.args, held))

    def delete(self, owner: str) -> Steps:
        row = yield ReadRow(self.here, owner)
        if not self.exists(row):
            return Ended('gone')
        stamp = None
        if not self.rules.stamp_in_row:
            stamp = yield from self.stamp_of(owner, row)
        kind = 'bury' if self.rules.bury else 'delete'
        done = yield OnRow(
            self.here, owner, row.incarnation, kind, None, self.new()
        )
        if done == UNKNOWN:
            return Ended('unknown')
        if done is not True:
            return Next('delete', (owner,))
        return Next('free_former', (owner, row.name, stamp, (), 'deleted'))

    # Claims.

    def claim(self, owner: str, name: str, held: Held, then: Next) -> Steps:
        stamp = self.new()
        there = yield OnClaim(name, None, Claim(owner, stamp))
        if there is True:
            return _with(then, held, Name(name, stamp))
        failed = Next('give_back', (owner, held, 'unknown'))
        again = Next('claim', (owner, name, held, then))
        if there == UNKNOWN:
            return failed
        if there is None:
            return again
        if there.owner != owner:
            old = yield IsOld()
            row = yield ReadRow(None, there.owner)
            had = self.exists(row) and row.has(name)
            if had or not old or not self.rules.take_over:
                return Next('give_back', (owner, held, 'taken'))
            left = self.datacenters if self.rules.fence else ()
            return Next('take_over', (owner, name, held, then, there, left))
        done = yield OnClaim(name, there, Claim(owner, stamp))
        if done == UNKNOWN:
            return failed
        if done is not True:
            return again
        return _with(then, held, Name(name, stamp, shared=True))

    def take_over(
        self,
        owner: str,
        name: str,
        held: Held,
        then: Next,
        seen: Claim,
        left: tuple[int, ...],
    ) -> Steps:
        """Take a claim from an owner, fenced where it is ``left`` to do."""
        failed = Next('give_back', (owner, held, 'unknown'))
        if left:
            row = yield ReadRow(left[0], seen.owner)
            done = yield self.fence(left[0], seen.owner, row)
            if done == UNKNOWN:
                return failed
            left = left[1:] if done is True else left
            return Next('take_over', (owner, name, held, then, seen, left))
        if self.rules.look_again:
            row = yield ReadRow(None, seen.owner)
            if self.exists(row) and row.has(name):
                return Next('give_back', (owner, held, 'taken'))
        stamp = self.new()
        done = yield OnClaim(name, seen, Claim(owner, stamp))
        if done == UNKNOWN:
            return failed
        if done is None or (done is not True and done.owner == owner):
            return Next('claim', (owner, name, held, then))
        if done is not True:
            # Changed this moment, so it is young.
            return Next('give_back', (owner, held, 'taken'))
        return _with(then, held, Name(name, stamp))

    def renew(self, owner: str, name: str, held: Held, then: Next) -> Steps:
        """Make sure that a claim is still what this attempt has made it."""
        (mine,) = (each for each in held if each.name == name)
        others = tuple(each for each in held if each.name != name)
        stamp = self.new()
        done = yield OnClaim(
            name, Claim(owner, mine.stamp), Claim(owner, stamp)
        )
        if done is not True:
            outcome = 'unknown' if done == UNKNOWN else 'taken'
            return Next('give_back', (owner, others, outcome))
        return _with(then, others, mine._replace(stamp=stamp))

    def give_back(self, owner: str, held: Held, outcome: str) -> Steps:
        if not held:
            return Ended(outcome)
        name, *rest = held
        if not (name.shared and self.rules.keep_shared):
            yield self.free(owner, name.name, name.stamp)
        return Next('give_back', (owner, tuple(rest), outcome))

    def free_former(
        self,
        owner: str,
        name: Name,
        stamp: Stamp | None,
        held: Held,
        outcome: str,
    ) -> Steps:
        """Free the claim of a name that a row has had."""
        if self.rules.stamp_in_row:
            stamp = name.stamp
        if name.shared and self.rules.leave_shared:
            stamp = None
        if stamp is not None:
            yield self.free(owner, name.name, stamp)
        return Next('give_back', (owner, held, outcome))

    def free(self, owner: str, name: str, stamp: Stamp | None) -> OnClaim:
        if not self.rules.compare_stamp:
            stamp = None
        return OnClaim(name, Claim(owner, stamp), None)

    def stamp_of(
        self, owner: str, row: Seen
    ) -> Generator[Request, Any, Stamp | None]:
        """Read a stamp that the row does not keep."""
        assert row.name is not None
        claim = yield ReadClaim(row.name.name)
        return claim.stamp if claim and claim.owner == owner else None

    # Base rows.

    def create_row(
        self, owner: str, name: str, seen: Stamp | None, held: Held
    ) -> Steps:
        incarnation = self.new()
        found = yield OnRow(
            self.here, owner, seen, 'create', held[0], incarnation
        )
        if found is True:
            return Ended('made')
        if found == UNKNOWN:
            return Next('settle_creation', (owner, held, seen, incarnation))
        if self.exists(found):
            return Next('give_back', (owner, held, 'conflict'))
        then = Next('create_row', (owner, name, found.incarnation))
        if self.rules.renew_at_marker:
            return Next('renew', (owner, name, held, then))
        return Next(then.procedure, (*then.args, held))

    def settle_creation(
        self, owner: str, held: Held, seen: Stamp | None, incarnation: Stamp
    ) -> Steps:
        row = yield ReadRow(self.here, owner)
        if self.exists(row):
            mine = row.born if self.rules.mine_by_stamp else row.incarnation
            if mine == incarnation:
                return Ended('made')
            # An entity that comes from another datacenter can have the
            # incarnation of a fence that was here before it.
            may_come = row.incarnation == seen and self.rules.settle_seen
            if not may_come:
                return Next('give_back', (owner, held, 'conflict'))
        done: object = True
        if self.rules.settle_by_fence:
            done = yield self.fence(self.here, owner, row)
        if done == UNKNOWN:
            return Ended('unknown')
        if done is True:
            return Next('give_back', (owner, held, 'not made'))
        args = (owner, held, seen, incarnation)
        return Next('settle_creation', args)

    def rename_row(
        self,
        owner: str,
        wanted: str,
        name: str,
        row: Seen,
        stamp: Stamp | None,
        held: Held,
    ) -> Steps:
        (new,) = (each for each in held if each.name == name)
        if not self.rules.write_as_claimed:
            row = yield ReadRow(self.here, owner)
            if not self.exists(row):
                return Next('give_back', (owner, held, 'gone'))
            new = new._replace(name=self.computed(wanted, row))
        incarnation = self.new()
        done = yield OnRow(
            self.here, owner, row.incarnation, 'rename', new, incarnation
        )
        if done == UNKNOWN:
            args = (owner, wanted, row, stamp, held, new, incarnation)
            return Next('settle_rename', args)
        if done is not True:
            return Next('rename', (owner, wanted, held))
        rest = tuple(each for each in held if each != new)
        return Next('free_former', (owner, row.name, stamp, rest, 'renamed'))

    def settle_rename(
        self,
        owner: str,
        wanted: str,
        row: Seen,
        stamp: Stamp | None,
        held: Held,
        new: Name,
        incarnation: Stamp,
    ) -> Steps:
        found = yield ReadRow(self.here, owner)
        if found.incarnation == row.incarnation:
            done = yield self.fence(self.here, owner, found)
            if done == UNKNOWN:
                return Ended('unknown')
            if done is not True:
                args = (owner, wanted, row, stamp, held, new, incarnation)
                return Next('settle_rename', args)
            return Next('rename', (owner, wanted, held))
        made = (
            found.name == new
            if self.rules.mine_by_stamp
            else found.incarnation == incarnation
        )
        if not made:
            return Next('rename', (owner, wanted, held))
        rest = tuple(each for each in held if each != new)
        return Next('free_former', (owner, row.name, stamp, rest, 'renamed'))

    def fence(self, datacenter: int, owner: str, row: Seen) -> OnRow:
        return OnRow(
            datacenter, owner, row.incarnation, 'fence', None, self.new()
        )

    @staticmethod
    def computed(wanted: str, row: Seen) -> str:
        if wanted != '*':
            return wanted
        return 'M' if row.has('N') else 'N'


def _names(held: Held) -> list[str]:
    return [each.name for each in held]


def _with(then: Next, held: Held, name: Name) -> Next:
    return Next(then.procedure, (*then.args, (*held, name)))
