# SPDX-License-Identifier: Apache-2.0
"""The states of the model of unique names, and what follows from each.

Each attempt's next step, a request that is applied late, and a datacenter that
tells another come in every order.  A fault is one of: a reply is lost; a
request is not applied yet, but later, at any time, or never; it is sent again,
and applied now and later; the server dies with its request under way.

Whatever a state is made of is stored once and has a number; a state is a
tuple of numbers.  What follows from parts of it is computed once, too, for
all cases of a :class:`World`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.unit import names_cassandra as cassandra
from tests.unit.names_cassandra import (
    ABSENT,
    UNKNOWN,
    BaseRow,
    Cell,
    Claim,
    IsOld,
    Name,
    OnClaim,
    OnRow,
    ReadClaim,
    ReadRow,
    Request,
)
from tests.unit.names_model import Attempt, Ended, Next, Rules

Claims = dict[str, Claim]
Rows = dict[str, tuple[BaseRow, ...]]


class Call(NamedTuple):
    """An operation that an attempt is of."""

    operation: str
    args: tuple[str, ...]
    datacenter: int = 0

    def __str__(self) -> str:
        text = f'{self.operation} {" ".join(self.args)}'
        return f'{text} in {self.datacenter}' if self.datacenter else text


class Start(NamedTuple):
    """What there is before the attempts begin.

    :ivar owned: the owner of each claim.
    :ivar named: the name of each entity.
    :ivar late: ids whose creation is under way, with the name of their claim,
        and nobody waits for it.
    :ivar buried: ids that were deleted, and left a marker.
    """

    text: str
    owned: dict[str, str] = {}
    named: dict[str, str] = {}
    late: tuple[str, ...] = ()
    buried: tuple[str, ...] = ()


class Local(NamedTuple):
    """The state of an attempt."""

    number: int
    datacenter: int
    made: int
    next: Next
    replies: tuple[Any, ...] = ()


#: claims, rows, requests under way, faults left, and the attempts: numbers.
State = tuple[int, ...]
CLAIMS, ROWS, UNDER_WAY, FAULTS, ATTEMPTS = range(5)


class Numbers:
    """Numbers for values, equal for equal ones."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def of(self, value: Hashable) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Move(NamedTuple):
    """A step of an attempt.

    :ivar request: its number if it changed something, or would have.
    :ivar lost: the attempt, if it never hears of it.
    :ivar changed: whether it was applied.
    """

    attempt: int
    claims: int
    rows: int
    request: int | None = None
    lost: int = 0
    changed: bool = False


class World:
    """Datacenters under some rules, and what was found out about them.

    :param sent_again: whether it is a fault, too, that a request which was
        not answered is sent again and applied, and then applied late.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        datacenters: int = 1,
        sent_again: bool = True,
    ) -> None:
        self.rules = rules or Rules()
        self.sent_again = sent_again
        self.datacenters = datacenters
        self.claims = Numbers()
        self.rows = Numbers()
        self.requests = Numbers()
        self.under_way = Numbers()
        self.attempts = Numbers()
        self.moves = functools.cache(self._moves)
        self.told = functools.cache(self._told)
        self.late = functools.cache(self._late)
        self.added = functools.cache(self._added)
        self.spread = functools.cache(self._spread)
        self.request = functools.cache(self._request)
        self.flaw = functools.cache(self._flaw)
        self.stuck = functools.cache(self._stuck)
        self.names = functools.cache(self._names)
        #: Outcomes of those that have ended.
        self.outcomes: dict[int, str] = {}
        self.crashed = self._ended(Ended('crashed'))

    # States.

    def start(self, start: Start, calls: Sequence[Call], faults: int) -> State:
        owned = {
            name: Claim(owner, (0, number))
            for number, (name, owner) in enumerate(start.owned.items(), 1)
        }
        rows = {}
        for owner, name in start.named.items():
            stamp = owned[name].stamp
            assert stamp is not None
            cells = (Name(name, stamp), (0, -stamp[1]), (0, -stamp[1]))
            row = BaseRow(*(Cell(1, value) for value in cells))
            rows[owner] = (row,) * self.datacenters
        for owner in start.buried:
            row = BaseRow(Cell(1, None), Cell(1, (0, 0)), Cell(1, None))
            rows[owner] = (row,) * self.datacenters
        late = [
            OnRow(0, owner, None, 'create', Name(name, claim.stamp), (0, 99))
            for name, claim in owned.items()
            for owner in start.late
            if claim.owner == owner
        ]
        attempts = [
            self.attempts.of(
                Local(
                    number, call.datacenter, 0, Next(call.operation, call.args)
                )
            )
            for number, call in enumerate(calls, 1)
        ]
        return (
            self._claims(owned),
            self._rows(rows),
            self.under_way.of(tuple(map(self.requests.of, late))),
            faults,
            *attempts,
        )

    def _ended(self, ended: Ended) -> int:
        attempt = self.attempts.of(ended)
        self.outcomes[attempt] = ended.outcome
        return attempt

    def after(self, state: State) -> Iterator[State]:
        """Give the states that can follow."""
        claims, rows, under_way, faults = state[:ATTEMPTS]
        attempts = state[ATTEMPTS:]
        for applied in self.late(claims, rows, under_way):
            yield (*applied, faults, *attempts)
        if self.datacenters > 1:
            for spread in self.spread(rows):
                yield (claims, spread, under_way, faults, *attempts)
        for at, attempt in enumerate(attempts):
            moves = self.moves(attempt, claims, rows)
            head, tail = attempts[:at], attempts[at + 1 :]
            for move in moves:
                then = (move.claims, move.rows, under_way)
                yield (*then, faults, *head, move.attempt, *tail)
                if faults and move.changed:  # the reply is lost
                    yield (*then, faults - 1, *head, move.lost, *tail)
                    if self.sent_again and move.request is not None:
                        then = (*then[:2], self.added(under_way, move.request))
                        yield (*then, faults - 1, *head, move.attempt, *tail)
            if not faults or not moves:
                continue
            request = moves[0].request
            later = under_way
            if request is not None:
                later = self.added(under_way, request)
            left = (claims, rows, later, faults - 1)
            if request is not None:
                yield (*left, *head, moves[0].lost, *tail)
            yield (*left, *head, self.crashed, *tail)

    # Attempts.

    def _run(self, local: Local) -> tuple[Request | Next | Ended, int]:
        """Run a procedure; return what it yields and what it has made."""
        attempt = Attempt(
            self.rules,
            local.number,
            local.datacenter,
            self.datacenters,
            local.made,
        )
        steps = getattr(attempt, local.next.procedure)(*local.next.args)
        try:
            request = next(steps)
            for reply in local.replies:
                request = steps.send(reply)
        except StopIteration as end:
            following: Next | Ended = end.value
            return following, attempt.made
        return request, attempt.made

    def _request(self, attempt: int) -> Request | None:
        """Return what an attempt asks for; None if it has ended."""
        local = self.attempts.values[attempt]
        if isinstance(local, Ended):
            return None
        request, _ = self._run(local)
        assert not isinstance(request, Next | Ended), local
        return request

    def _told(self, attempt: int, reply: Any) -> int:
        """Return what an attempt is after a reply."""
        local = self.attempts.values[attempt]
        local = local._replace(replies=(*local.replies, reply))
        while True:
            following, made = self._run(local)
            if isinstance(following, Ended):
                return self._ended(following)
            if not isinstance(following, Next):
                return self.attempts.of(local)
            local = local._replace(made=made, next=following, replies=())

    def _moves(self, attempt: int, claims: int, rows: int) -> list[Move]:
        request = self.request(attempt)
        if request is None:
            return []
        told = functools.partial(self.told, attempt)
        if isinstance(request, IsOld):
            return [Move(told(old), claims, rows) for old in (True, False)]
        if isinstance(request, ReadClaim):
            there = dict(self.claims.values[claims]).get(request.name)
            return [Move(told(there), claims, rows)]
        if isinstance(request, ReadRow):
            found = self._find(rows, request.id)
            if request.datacenter is not None:
                found = (found[request.datacenter],)
            return [Move(told(cassandra.seen(*found)), claims, rows)]
        number = self.requests.of(request)
        lost = told(UNKNOWN)
        return [
            Move(told(reply), claims, rows, number, lost, reply is True)
            for reply, claims, rows in self._apply(request, claims, rows)
        ]

    # Requests.

    def _apply(
        self, request: OnClaim | OnRow, claims: int, rows: int
    ) -> Iterator[tuple[Any, int, int]]:
        """Give the reply, the claims and the rows."""
        if isinstance(request, OnRow):
            found = self._find(rows, request.id)
            seen = cassandra.seen(found[request.datacenter])
            if seen.incarnation != request.seen:
                yield seen, claims, rows
                return
            others = dict(self.rows.values[rows])
            for written in cassandra.written(request, found):
                then = self._rows(others | {request.id: written})
                yield True, claims, then
            return
        there = dict(self.claims.values[claims])
        claim = there.get(request.name)
        if not cassandra.matches(claim, request.seen):
            yield claim, claims, rows
            return
        there.pop(request.name, None)
        if request.new:
            there[request.name] = request.new
        yield True, self._claims(there), rows

    def _late(
        self, claims: int, rows: int, under_way: int
    ) -> list[tuple[int, ...]]:
        """Return what becomes of requests that are applied late."""
        numbers = self.under_way.values[under_way]
        return [
            (*then, self.under_way.of(_without(numbers, number)))
            for number in numbers
            for reply, *then in self._apply(
                self.requests.values[number], claims, rows
            )
            if reply is True
        ]

    def _added(self, under_way: int, request: int) -> int:
        numbers = {*self.under_way.values[under_way], request}
        return self.under_way.of(tuple(sorted(numbers)))

    def _spread(self, rows: int) -> list[int]:
        """Return what becomes of rows when a datacenter tells another."""
        there: Rows = dict(self.rows.values[rows])
        found = []
        for owner, row in there.items():
            for told, here in enumerate(row):
                for other in row:
                    merged = cassandra.merged(here, other)
                    if merged != here:
                        new = (*row[:told], merged, *row[told + 1 :])
                        found.append(self._rows(there | {owner: new}))
        return found

    def _claims(self, claims: Claims) -> int:
        return self.claims.of(tuple(sorted(claims.items())))

    def _rows(self, rows: Rows) -> int:
        return self.rows.of(
            tuple(
                sorted(
                    (each, cassandra.ranked(row)) for each, row in rows.items()
                )
            )
        )

    def _find(self, rows: int, owner: str) -> tuple[BaseRow, ...]:
        found: tuple[BaseRow, ...] = dict(self.rows.values[rows]).get(
            owner, (ABSENT,) * self.datacenters
        )
        return found

    # Invariants.

    def _names(self, rows: int) -> dict[str, str] | None:
        """Return the names of entities; None while datacenters differ."""
        names = {}
        attempt = Attempt(self.rules, 0, 0, 1, 0)
        for owner, row in self.rows.values[rows]:
            if len(set(row)) > 1:
                return None
            seen = cassandra.seen(row[0])
            if attempt.exists(seen) and seen.name:
                names[owner] = seen.name.name
        return names

    def _flaw(self, claims: int, rows: int) -> str | None:
        """Say what is wrong with entities, as they are."""
        names = self.names(rows) or {}
        owned = dict(self.claims.values[claims])
        for owner, name in names.items():
            claim = owned.get(name)
            if sum(name == other for other in names.values()) > 1:
                return f'two have the name {name}'
            if claim is None or claim.owner != owner:
                return f'{owner} has {name} and not its claim'
        return None

    def _stuck(self, claims: int, rows: int) -> str | None:
        """Say whether a name can be claimed by none, and nobody has it."""
        names = self.names(rows) or {}
        for name, _ in self.claims.values[claims]:
            first = Local(9, 0, 0, Next('create', ('Z', name)))
            attempt = self.attempts.of(first)
            claims_then, rows_then = claims, rows
            while attempt not in self.outcomes:
                # Of a claim that is old; a write is later than others.
                move = self.moves(attempt, claims_then, rows_then)[0]
                attempt, claims_then, rows_then = move[:3]
            outcome = self.outcomes[attempt]
            if outcome != 'made' and name not in names.values():
                return f'{name} is stuck: {outcome}'
        return None


def _without(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(each for each in numbers if each != number)
