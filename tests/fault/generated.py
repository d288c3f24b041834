# SPDX-License-Identifier: Apache-2.0
"""Crashes, lost replies, failures and races, made from declarations.

A module declares a :class:`World`: what is there at first, the operations on
it, and what readers see of it.  A class of tests is made of that::

    class TestGroups(Generated):
        world = Groups

``test_crashes``
    The process dies after each write of an operation but the last.  Readers
    see the state before or the one after, and never the one before again;
    nothing is wrong (:meth:`World.wrong`).  The operation again, by another
    process and once the claims of the dead one are old, comes to the state
    after.
``test_lost_replies``
    Cassandra does each write, and the answer is lost.  Of a conditional one
    the operation finds out that it was done, and says so; else it may say
    503, and what it does again comes to the state after.
``test_failures``
    Each request from the first write on fails before it is sent.  Who is
    told 503 sees the state before or the one after; the operation again
    comes to the state after.
``test_late_writes``
    A conditional write is given up, and so is the second try; Cassandra does
    both at last, once the operation has come to its end and has been done
    again.  That changes nothing.
``test_pairs``
    An operation stops before each of its requests but the first, while
    another one is done: within the minute in which its claims are its own,
    or after it.  Both are told, and readers see, what one order or the other
    would give, or one was refused and has done nothing.

At the end of each the tables that follow are reconciled: nothing is left to
mend, nothing that readers see has changed, and nothing is wrong.

What is known to be wrong stands in ``known_violations.txt``, line by line:
what is found must be what stands there, so that the list can only shrink.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import os
import pathlib
import random
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import cassandra
import pytest
from keystone import exception

from keystone_cassandra_token.cmd.reconcile import all_derived
from keystone_cassandra_token.db import consistency, errors
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Send
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables import reconcile, unique
from tests.fault import faults

#: Chooses the pairs of a run; each process of a run has it.
SEED = 'KEYSTONE_CASSANDRA_PAIRS_SEED'
#: Others that one operation meets in a run, of all.
PAIRS = 1
#: Conditional writes of one operation that are late in a run, of all.
LATE = 1
DONE = 'done'
AT_ONCE = datetime.timedelta(0)
KNOWN = pathlib.Path(__file__).with_name('known_violations.txt')

Statements = tuple[Statement, ...]
State = Mapping[str, Any]
Call = Callable[[Any], object]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One call with its arguments.

    :ivar again: what who repeats it may be told once it was done.
    :ivar refused: what it may be told beside another one, having done
        nothing.
    :ivar partly: what of a state may be done before the rest, or all.
    :ivar repeats: whether doing it again comes to the same as once.
    :ivar makes: the label of what it makes; who tries again once it was not
        made does so with another id.
    :ivar uses_up: whether it takes what can be taken once: done late, it is
        taken for nothing.
    """

    name: str
    call: Call
    again: tuple[type[exception.Error], ...]
    refused: tuple[type[exception.Error], ...]
    partly: Collection[str] | None
    repeats: bool
    makes: str | None
    uses_up: bool


def operation(
    *again: type[exception.Error],
    refused: tuple[type[exception.Error], ...] = (exception.Conflict,),
    partly: Collection[str] | None = (),
    repeats: bool = True,
    makes: str | None = None,
    uses_up: bool = False,
) -> Callable[[Call], Call]:
    """Declare a method of a world as an operation; see the class."""

    def declare(call: Call) -> Call:
        call.operation = Operation(  # type: ignore[attr-defined]
            call.__name__,
            call,
            again,
            refused,
            partly,
            repeats,
            makes,
            uses_up,
        )
        return call

    return declare


class World:
    """What one case works on, all of it new.

    :cvar kinds: tables that ``reconcile`` looks after.
    :cvar ages: modules with the name of an age from which on what a process
        has left is nobody's; without names to claim there is none.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    ages: ClassVar[tuple[tuple[Any, str], ...]] = ((unique, 'STALE_AFTER'),)

    def __init__(self, store: Store) -> None:
        self.store = store
        self._ids: dict[str, str] = {}
        #: Whether something has failed: then more may be left.
        self.disturbed = False

    def id(self, label: str) -> str:
        """Return the id that stands for a label in this world.

        Ids are in the order in which they are asked for first, so that lists
        are too and each run does the same.
        """
        if label not in self._ids:
            number = len(self._ids)
            self._ids[label] = f'{number:02x}{uuid.uuid4().hex[2:]}'
        return self._ids[label]

    def name(self, label: str, given: str) -> None:
        """Let a label stand for an id that was given out."""
        self._ids[label] = given

    def renew(self, label: str) -> None:
        """Let a label stand for another id."""
        self._ids[f'former {label}'] = self._ids.pop(label)

    def labels(self, ids: Any, strange: bool = True) -> list[str]:
        """Return the labels of ids.

        :param strange: show those that have none; else leave them out.
        """
        known = {value: label for label, value in self._ids.items()}
        return sorted(
            known.get(each, '?') for each in ids if strange or each in known
        )

    def listed(self, entity: Any, index: Any, value: str) -> list[str]:
        """Return the labels of what an index leads to, in one request."""
        found = entity.find_by(self.store, index, value)
        return self.labels(each['id'] for each in found)

    def state(self) -> State:
        """Return what readers see, in all ways of asking."""
        raise NotImplementedError

    def wrong(self) -> list[str]:
        """Return what is wrong, also while operations are under way."""
        return []

    def left(self) -> list[str]:
        """Return what must not be left where nobody died."""
        return []

    def probe(self) -> list[str]:
        """Return what is wrong, by doing something and undoing it."""
        return []

    @classmethod
    def operations(cls) -> dict[str, Operation]:
        return {
            name: member.operation
            for parent in reversed(cls.__mro__)
            for name, member in vars(parent).items()
            if hasattr(member, 'operation')
        }


def told(call: Callable[..., object], *arguments: Any) -> str:
    """Return what a caller is told."""
    try:
        call(*arguments)
    except exception.Error as error:
        return type(error).__name__
    return DONE


def found(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, None where it finds nothing."""
    try:
        return call(*arguments)
    except (exception.NotFound, exception.ConfigRegistrationNotFound):
        return None


#: What a row has that only keeps a creation from being made late.
FENCE = ('id', 'incarnation')


def ghosts(world: World, entity: Any, labels: Collection[str]) -> list[str]:
    """Return rows that are no entities, and have more than a fence has."""
    rows = (
        (label, world.store.one(entity.get, entity.row, id=world.id(label)))
        for label in labels
    )
    return [
        f'a ghost row of {label}'
        for label, row in rows
        if row
        and not entity.exists(row)
        and {name for name in row if row[name] is not None} > {*FENCE}
    ]


def wrong_names(
    world: World,
    entity: Any,
    names: Any,
    keys: Mapping[str, Any],
    labels: Collection[str],
) -> list[str]:
    """Return what is wrong with unique names.

    :param names: a :class:`ClaimSpec`, or entities whose first one is meant.
    :param keys: the keys of the names, by label.
    :param labels: of the entities.
    """
    store, wrong = world.store, []
    names = getattr(names, 'specs', [names])[0]
    there = {
        label: names.keys(store, row)
        for label in labels
        if (row := entity.find(store, world.id(label)))
    }
    for name, key in keys.items():
        have = [label for label, has in there.items() if key in has]
        claim = names.claims.settled(store, **key)
        (owner,) = world.labels([claim['owner']]) if claim else (None,)
        if len(have) > 1:
            wrong.append(f'{name} is the name of {" and ".join(have)}')
        if have and owner not in have:
            wrong.append(f'{have[0]} has {name}, its claim is of {owner}')
        # What died, or got no answer, may leave one that can be taken over.
        if claim and owner not in have and not world.disturbed:
            is_ = 'has another' if owner in there else 'is gone'
            wrong.append(f'{name} stays taken by {owner}, which {is_}')
    return wrong


class At:
    """Acts at one of the requests of a thread, this one by default."""

    def __init__(
        self, index: int, act: Callable[[Statements, Send], Any]
    ) -> None:
        self.index = index
        self.act = act
        self.thread = threading.current_thread()
        self.sent: list[Statements] = []

    def __call__(self, statements: Statements, send: Send) -> Any:
        if threading.current_thread() is not self.thread:
            return send()
        self.sent.append(statements)
        if len(self.sent) == self.index + 1:
            return self.act(statements, send)
        return send()

    @property
    def met(self) -> bool:
        return len(self.sent) > self.index


class Late:
    """Keeps requests that nobody is told of, for later."""

    def __init__(self) -> None:
        self._kept: list[tuple[Statements, Send]] = []
        self._is_over = False

    def keep(self, statements: Statements, send: Send) -> Any:
        """Keep a request; whoever sends it takes it for lost."""
        self._kept.append((statements, send))
        raise cassandra.OperationTimedOut()

    def keep_second(self, statements: Statements, send: Send) -> Any:
        """Keep the second try of a request that was kept, too."""
        if self._is_over or len(self._kept) != 1:
            return send()
        if statements != self._kept[0][0]:
            return send()
        return self.keep(statements, send)

    def send(self) -> None:
        """Let Cassandra do what was kept."""
        self._is_over = True
        for _, send in self._kept:
            send().result()


def step(sent: list[Statements], index: int) -> str:
    """Return what a request is called: its statement, and which of these."""
    names = [f'{each[0].verb} {each[0].table}' for each in sent]
    name = names[index]
    number = names[: index + 1].count(name)
    return f'{name} {number}' if number > 1 else name


def beside(
    store: Store,
    index: int,
    first: Callable[[], object],
    other: Callable[[], object],
) -> tuple[At, str, str]:
    """Stop a call before one of its requests, until another one is done."""
    reached, go = threading.Event(), threading.Event()
    said: list[Any] = []

    def wait(_statements: Statements, send: Send) -> Any:
        reached.set()
        assert go.wait(faults.PATIENCE)
        return send()

    at = At(index, wait)

    def run() -> None:
        at.thread = threading.current_thread()
        try:
            said.append(told(first))
        except BaseException as error:
            said.append(error)
        finally:
            reached.set()

    thread = threading.Thread(target=run)
    with faults.intercepted(store, at):
        thread.start()
        try:
            assert reached.wait(faults.PATIENCE)
            said_other = told(other) if at.met else ''
        finally:
            go.set()
            thread.join(faults.PATIENCE)
    assert not thread.is_alive()
    if isinstance(said[0], BaseException):
        raise said[0]
    return at, said[0], said_other


@dataclasses.dataclass(frozen=True)
class Alone:
    """What operations do one after the other.

    :ivar sent: the requests of the last one.
    """

    said: tuple[str, ...]
    state: State
    sent: list[Statements]


class Bench:
    """Makes worlds, and finds what is wrong with them."""

    def __init__(
        self,
        world: type[World],
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        alone: dict[tuple[str, ...], Alone],
    ) -> None:
        self.world = world
        self.store = store
        self.monkeypatch = monkeypatch
        self._alone = alone
        self._worlds: list[tuple[World, State]] = []

    @contextlib.contextmanager
    def aged(self, *more: tuple[Any, str]) -> Iterator[None]:
        """Let what is there be old."""
        with self.monkeypatch.context() as patch:
            for module, name in (*self.world.ages, *more):
                patch.setattr(module, name, AT_ONCE)
            yield

    def alone(self, *operations: Operation) -> Alone:
        """Do operations one after the other, once for all tests."""
        key = tuple(each.name for each in operations)
        if key not in self._alone:
            world = self.world(self.store)
            said, requests = [], []
            for each in operations:
                with faults.counted(self.store) as sent:
                    said.append(told(each.call, world))
                requests = sent
            self._alone[key] = Alone(tuple(said), world.state(), requests)
            assert not world.wrong(), world.wrong()
            assert not world.left(), world.left()
        return self._alone[key]

    def reconciled(self) -> Iterator[str]:
        """Reconcile, and yield what is wrong then."""
        with self.aged((reconcile, 'YOUNG')):
            for name in self.world.kinds:
                kind = all_derived()[name]
                for _ in range(2):
                    work = reconcile.Reconciler(self.store, apply=True)
                    work.run(kind)
                for table, counts in work.counts.items():
                    if counts.wrong or counts.young:
                        yield f'reconciled: {table} is not whole'
        for world, before in self._worlds:
            world.disturbed = False
            if (after := world.state()) != before:
                yield f'reconciled: {difference(after, [before])}'
            for each in world.wrong():
                yield f'reconciled: {each}'

    def crashes(self, wanted: Operation) -> Iterator[str]:
        before, after = self.alone().state, self.alone(wanted).state
        writes = writes_of(self.alone(wanted).sent)
        done = False
        for index in writes[1:]:
            world = self.world(self.store)
            world.disturbed = True
            with faults.crash(self.store, index) as point:
                told(wanted.call, world)
            assert point.fired
            state = world.state()
            allowed = [after] if done else [before, after]
            wrong = [*world.wrong()]
            if not self._partly(wanted, state, allowed):
                wrong.append(difference(state, allowed))
            done = done or state == after
            wrong += self._again(world, wanted, state)
            with self.aged():
                wrong += world.probe()
            yield from (
                f'before {step(point.sent, index)}: {each}' for each in wrong
            )

    def lost_replies(self, wanted: Operation) -> Iterator[str]:
        alone = self.alone(wanted)
        for index in writes_of(alone.sent):
            (statement, *_) = alone.sent[index]
            world, said = self._with(
                wanted, index, lambda _, send: faults.LostReply(send())
            )
            state = world.state()
            wrong = []
            if statement.operation in consistency.CONDITIONAL and (
                ((said,), state) != (alone.said, alone.state)
            ):
                wrong.append(f'{said}, {difference(state, [alone.state])}')
            wrong += self._undone(world, wanted, said, state)
            yield from (
                f'at {step(alone.sent, index)}: {each}' for each in wrong
            )

    def failures(self, wanted: Operation) -> Iterator[str]:
        def fail(_statements: Statements, _send: Send) -> Any:
            raise cassandra.OperationTimedOut()

        sent = self.alone(wanted).sent
        skipped = in_the_middle(sent)
        for index in range(*writes_of(sent)[:1], len(sent)):
            if index in skipped:
                continue
            world, said = self._with(wanted, index, fail)
            for each in self._undone(world, wanted, said, world.state()):
                yield f'at {step(sent, index)}: {each}'

    def late_writes(
        self, wanted: Operation, chosen: Callable[[list[int]], list[int]]
    ) -> Iterator[str]:
        """Give up conditional writes, and let Cassandra do them at last.

        :param chosen: which of them.
        """
        sent = self.alone(wanted).sent
        conditional = [
            index
            for index in writes_of(sent)
            if sent[index][0].operation in consistency.CONDITIONAL
        ]
        for index in chosen(conditional):
            late = Late()
            with faults.intercepted(self.store, late.keep_second):
                world, said = self._with(wanted, index, late.keep)
            wrong = self._undone(world, wanted, said, world.state())
            before = world.state()
            late.send()
            state = world.state()
            if wanted.uses_up:
                if not wrong:
                    self._worlds[-1] = world, state
            elif state != before:
                wrong.append(f'late, {difference(state, [before])}')
            wrong += world.wrong()
            for each in wrong:
                yield f'at {step(sent, index)}: {each}'

    def _with(
        self,
        wanted: Operation,
        index: int,
        act: Callable[[Statements, Send], Any],
    ) -> tuple[World, str]:
        """Do an operation that is disturbed at one of its requests."""
        world = self.world(self.store)
        world.disturbed = True
        at = At(index, act)
        with faults.intercepted(self.store, at):
            said = told(wanted.call, world)
        assert at.met
        return world, said

    def _undone(
        self, world: World, wanted: Operation, said: str, state: State
    ) -> list[str]:
        """Return what is wrong once an operation was perhaps not done."""
        ends = [self.alone(wanted).state]
        if said in UNAVAILABLE:
            ends.append(self.alone().state)
        wrong = world.wrong()
        if not self._partly(wanted, state, ends):
            wrong.append(f'{said}, {difference(state, ends)}')
        return wrong + self._again(world, wanted, state)

    def _partly(
        self, wanted: Operation, state: State, ends: list[State]
    ) -> bool:
        """Return whether a state is one of the ends, or on the way there."""
        apart = state if wanted.partly is None else wanted.partly
        return on_the_way(state, ends, apart)

    def _again(
        self, world: World, wanted: Operation, state: State
    ) -> list[str]:
        """Do it again as another process; return what is wrong then."""
        after = self.alone(wanted).state
        wrong = []
        if wanted.repeats:
            if wanted.makes and state != after:
                world.renew(wanted.makes)
            allowed = list(self.alone(wanted).said)
            if state == after or wanted.partly != ():
                allowed += [each.__name__ for each in wanted.again]
            with self.aged():
                said = told(wanted.call, world)
            state = world.state()
            if said not in allowed:
                wrong.append(f'{said} to who does it again')
            elif state != after:
                wrong.append(f'again, {difference(state, [after])}')
        return wrong + self._at_rest(world, state)

    def _at_rest(self, world: World, state: State) -> list[str]:
        """Return what is wrong; keep a world for the end if nothing is."""
        wrong = world.wrong()
        if not wrong:
            self._worlds.append((world, state))
        return wrong

    def pairs(
        self, first: Operation, other: Operation, late: bool
    ) -> Iterator[str]:
        in_order, reverse = self.alone(first, other), self.alone(other, first)
        orders = [
            (in_order.said, in_order.state),
            (reverse.said[::-1], reverse.state),
        ]
        skipped = in_the_middle(self.alone(first).sent)
        for index in itertools.count(1):
            if index in skipped:
                continue
            world = self.world(self.store)
            with self.aged() if late else contextlib.nullcontext():
                at, *said = beside(
                    self.store,
                    index,
                    functools.partial(first.call, world),
                    functools.partial(other.call, world),
                )
            if not at.met:
                return
            allowed = list(orders)
            if said[0] in names_of(first.refused):
                only = self.alone(other)
                allowed.append(((said[0], *only.said), only.state))
            if said[1] in names_of(other.refused):
                only = self.alone(first)
                allowed.append(((*only.said, said[1]), only.state))
            state = world.state()
            wrong = world.left()
            if (tuple(said), state) not in allowed:
                ends = [end for told, end in allowed if told == tuple(said)]
                not_so = difference(state, ends) if ends else 'never so'
                wrong.append(f'{", ".join(said)}: {not_so}')
            wrong += self._at_rest(world, state)
            for each in wrong:
                yield f'before {step(at.sent, index)}: {each}'


def on_the_way(
    state: State, ends: Sequence[State], apart: Collection[str]
) -> bool:
    """Return whether a state is one of the ends, or on the way to one.

    :param apart: names of what may be as in any of the ends.
    """
    return any(
        all(
            state[name]
            in [end[name]] + [e[name] for e in ends if name in apart]
            for name in state
        )
        for end in ends
    )


def names_of(errors: tuple[type[exception.Error], ...]) -> list[str]:
    return [each.__name__ for each in errors]


def in_the_middle(sent: list[Statements]) -> set[int]:
    """Return which of some requests are amid equal reads, as of all shards."""
    return {
        index
        for index in range(1, len(sent) - 1)
        if sent[index - 1] == sent[index] == sent[index + 1]
        and sent[index][0].verb == 'SELECT'
    }


def writes_of(sent: list[Statements]) -> list[int]:
    """Return which of some requests are writes."""
    return [
        index for index, each in enumerate(sent) if each[0].verb != 'SELECT'
    ]


#: What a caller is told who cannot know.
UNAVAILABLE = (
    errors.StoreUnavailable.__name__,
    errors.OutcomeUnknown.__name__,
)


def difference(state: State, others: list[State]) -> str:
    """Return what of a state is not as in the one that is nearest to it."""
    differences = [
        [
            f'{name} is {state.get(name)}, not {other.get(name)}'
            for name in {**state, **other}
            if state.get(name) != other.get(name)
        ]
        for other in others
    ]
    return '; '.join(min(differences, key=len)) or 'as it should be'


def known() -> set[str]:
    """Return what is known to be wrong."""
    return set(KNOWN.read_text().splitlines())


class Generated:
    """Tests of a world, one for each operation and fault."""

    world: ClassVar[type[World]]
    _alone: ClassVar[dict[tuple[str, ...], Alone]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if 'wanted' in metafunc.fixturenames:
            operations = self.world.operations()
            metafunc.parametrize('wanted', operations.values(), ids=operations)

    @pytest.fixture
    def bench(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Bench]:
        cls = type(self)
        if '_alone' not in vars(cls):
            cls._alone = {}
        written: set[str] = set()

        def note(statements: Statements, send: Send) -> Any:
            written.update(
                each.table for each in statements if each.verb != 'SELECT'
            )
            return send()

        with faults.intercepted(store, note):
            yield Bench(self.world, store, monkeypatch, cls._alone)
        connection = store.sessions.get()
        truncated = [
            connection.session.execute_async(
                f'TRUNCATE {connection.keyspace}."{table}"', timeout=60
            )
            for table in sorted(written)
        ]
        for each in truncated:
            each.result()

    def check(self, bench: Bench, cases: Mapping[str, Iterator[str]]) -> None:
        """Compare what is wrong in some cases with what is known to be."""
        world = self.world.__name__
        wrong = {
            f'{world}: {case}, {each}'
            for case, found in cases.items()
            for each in found
        }
        wrong.update(
            f'{world}: {" and ".join(cases)}, {each}'
            for each in bench.reconciled()
        )
        begins = tuple(f'{world}: {case}, ' for case in cases)
        known = {
            line
            for line in KNOWN.read_text().splitlines()
            if line.startswith(begins)
        }
        new, gone = sorted(wrong - known), sorted(known - wrong)
        assert not new, '\n'.join(['new:', *new])
        assert not gone, '\n'.join(['no longer so, take them out:', *gone])

    def test_crashes(self, bench: Bench, wanted: Operation) -> None:
        self.check(bench, {f'crash of {wanted.name}': bench.crashes(wanted)})

    def test_lost_replies(self, bench: Bench, wanted: Operation) -> None:
        cases = {f'lost reply to {wanted.name}': bench.lost_replies(wanted)}
        self.check(bench, cases)

    def test_failures(self, bench: Bench, wanted: Operation) -> None:
        self.check(
            bench, {f'failure of {wanted.name}': bench.failures(wanted)}
        )

    def test_late_writes(
        self, bench: Bench, wanted: Operation, pytestconfig: pytest.Config
    ) -> None:
        def chosen(all_of_them: list[int]) -> list[int]:
            if pytestconfig.getoption('all_pairs'):
                return all_of_them
            chance = self.chance(f'late {wanted.name}')
            return chance.sample(all_of_them, min(LATE, len(all_of_them)))

        self.check(
            bench,
            {
                f'late write of {wanted.name}': bench.late_writes(
                    wanted, chosen
                )
            },
        )

    def chance(self, what: str) -> random.Random:
        """Return what chooses for a world, the same in all of a run."""
        return random.Random(
            f'{os.environ[SEED]} {self.world.__name__} {what}'
        )

    def test_pairs(
        self, bench: Bench, wanted: Operation, pytestconfig: pytest.Config
    ) -> None:
        chosen = [
            (other, late)
            for other in self.world.operations().values()
            for late in (False, True)[: 2 if self.world.ages else 1]
        ]
        if not pytestconfig.getoption('all_pairs'):
            chosen = self.chance(wanted.name).sample(chosen, PAIRS)
        cases = {
            f'{wanted.name} beside {"late " if late else ""}{other.name}': (
                bench.pairs(wanted, other, late)
            )
            for other, late in chosen
        }
        self.check(bench, cases)
