# SPDX-License-Identifier: Apache-2.0
"""Names, what has them, and what is counted: once in all regions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.regions.history import (
    NEVER,
    OK,
    REFUSED,
    UNKNOWN,
    History,
    Operation,
)
from tests.regions.timeline import Timeline, possible
from tests.regions.violation import Violation

_CREATE = ('name.create', 'credential.create', 'secret.create')
#: What a secret holds is its name here.
_RENAME = ('name.rename', 'secret.change')
_DELETE = ('name.delete', 'credential.delete', 'secret.delete')
_SHOW = ('name.show', 'secret.show')
_MAY_BE = (OK, UNKNOWN)


class Entities:
    """What was done to each entity of a history."""

    def __init__(self, history: History, time: Timeline) -> None:
        self._time = time
        self.done: dict[str, list[Operation]] = defaultdict(list)
        for each in history.of(*_CREATE, *_RENAME, *_DELETE):
            if each.outcome in _MAY_BE:
                self.done[each.about['entity']].append(each)

    def of(self, entity: str, *kinds: str) -> list[Operation]:
        return [x for x in self.done[entity] if x.kind in kinds]

    def is_deleted(self, entity: str, read: Operation) -> Operation | None:
        """Return a deletion that counts where and when something is read."""
        for each in self.of(entity, *_DELETE):
            if each.outcome == OK and self._time.counts(each, read):
                return each
        return None

    def must_be(self, entity: str, read: Operation) -> bool:
        """Return whether it must be there where something is read.

        A deletion wins over all else, whatever comes after it elsewhere (the
        page on deviations, *What wins*).
        """
        created = self.of(entity, *_CREATE)
        return any(
            x.outcome == OK and self._time.counts(x, read) for x in created
        ) and not any(x.begin < read.end for x in self.of(entity, *_DELETE))

    def names(self, entity: str, read: Operation | None = None) -> list[str]:
        """Return the names that it can have."""
        writes = self.of(entity, *_CREATE, *_RENAME)
        return possible(self._time, writes, lambda x: x.about['name'], read)


def _spans(
    entities: Entities, time: Timeline
) -> Iterator[tuple[tuple[str, str], float, float, Operation]]:
    """Yield what held a name for sure: kind and name, from when to when."""
    for done in entities.done.values():
        gone = [x.begin for x in done if x.kind in _DELETE]
        for gives in done:
            if gives.kind in _DELETE or gives.outcome != OK:
                continue
            name = gives.about['name']
            # One that did not come before it may be the one that counts.
            others = [
                x.begin
                for x in done
                if x.kind in _RENAME
                and x is not gives
                and x.about['name'] != name
                and not time.knows(gives, x)
            ]
            end = min([*gone, *others], default=NEVER)
            if gives.end < end:
                key = gives.about['of'], name
                yield key, gives.end, end, gives


def held_once(history: History, time: Timeline) -> Iterator[Violation]:
    """No name is held twice at any time, as acknowledged."""
    held: dict[tuple[str, str], list[tuple[float, float, Operation]]]
    held = defaultdict(list)
    for key, begin, end, by in _spans(Entities(history, time), time):
        held[key].append((begin, end, by))
    for several in held.values():
        several.sort(key=lambda x: x[:2])
        last = several[0]
        for each in several[1:]:
            same = each[2].about['entity'] == last[2].about['entity']
            if each[0] < last[1] and not same:
                yield Violation('a name is held once', [each[2], last[2]])
            if each[1] > last[1]:
                last = each


def found(history: History, time: Timeline) -> Iterator[Violation]:
    """By a name is found what has it, and nothing else."""
    entities = Entities(history, time)
    for read in history.of('name.find', 'credential.list'):
        if read.outcome != OK or not time.is_checked(read):
            continue
        kind = read.about.get('of', 'credential')
        shown: dict[str, str] = read.shown['found']
        for name, number in Counter(shown.values()).items():
            if number > 1:
                yield Violation(f'{name} is held once', [read])
        for entity, name in shown.items():
            if entity in entities.done and name not in entities.names(
                entity, read
            ):
                yield Violation(f'{entity} has not the name {name}', [read])
        for entity, done in entities.done.items():
            if done[0].about['of'] != kind or not _is_sought(
                entities, entity, read
            ):
                continue
            if entity not in shown and entities.must_be(entity, read):
                yield Violation(f'{entity} is found', [read, *done])


def _is_sought(entities: Entities, entity: str, read: Operation) -> bool:
    """Return whether a read must show an entity if it is there."""
    names = entities.names(entity, read)
    if read.kind == 'credential.list':
        return all(x.startswith(read.about['owner']) for x in names)
    name = read.about['name']
    return name is None or names == [name]


def shown(history: History, time: Timeline) -> Iterator[Violation]:
    """What is there is shown by its id, and lets in."""
    entities = Entities(history, time)
    for read in history.of(*_SHOW, 'credential.log_in'):
        if not time.is_checked(read):
            continue
        entity = read.about['entity']
        if read.outcome == REFUSED and entities.must_be(entity, read):
            done = entities.done[entity]
            yield Violation(f'{entity} is there', [read, *done])
        if read.outcome == OK and read.kind in _SHOW:
            name = read.shown['name']
            if name not in entities.names(entity, read):
                yield Violation(f'{entity} has not the name {name}', [read])


def deleted_is_deleted(
    history: History, time: Timeline
) -> Iterator[Violation]:
    """A removal is never undone."""
    entities = Entities(history, time)
    reads = history.of(
        *('name.find', 'name.log_in', *_SHOW),
        *('credential.list', 'credential.log_in'),
    )
    for read in reads:
        if read.outcome != OK or not time.is_checked(read):
            continue
        for entity in read.shown.get('found') or [read.about.get('entity')]:
            if entity and (end := entities.is_deleted(entity, read)):
                yield Violation(f'{entity} stays deleted', [read, end])
    trusts = [x for x in history.of('trust.delete') if x.outcome == OK]
    for read in history.of('trust.use', 'trust.show'):
        if read.outcome == OK and time.is_checked(read):
            for end in trusts:
                if end.about == read.about and time.counts(end, read):
                    yield Violation('a trust stays deleted', [read, end])


def agreed(history: History, time: Timeline) -> Iterator[Violation]:
    """In the end all regions show the same, by each way to it."""
    last = [x for x in history.operations if time.is_last(x)]
    first: dict[str, Operation] = {}
    for read in last:
        if read.kind in ('name.find', 'credential.list', *_SHOW):
            key = f'{read.kind} {read.about}'
            other = first.setdefault(key, read)
            if (other.outcome, other.shown) != (read.outcome, read.shown):
                yield Violation('all regions show the same', [read, other])
    for read in last:
        if read.kind == 'name.find' and read.about['name'] is None:
            yield from _by_name(read, last)


def _by_name(whole: Operation, reads: list[Operation]) -> Iterator[Violation]:
    """Compare what a list shows with what is found by each name."""
    for read in reads:
        if (
            read.kind == 'name.find'
            and read.region == whole.region
            and read.about['of'] == whole.about['of']
            and read.about['name'] is not None
        ):
            name = read.about['name']
            listed = {
                k: v for k, v in whole.shown['found'].items() if v == name
            }
            if listed != read.shown['found']:
                yield Violation('who has a name is found by it', [read, whole])


def uses(history: History, time: Timeline) -> Iterator[Violation]:
    """A limited trust is used no more often than it says."""
    limit = history.run['limit']
    for trust in {x.about['trust'] for x in history.of('trust.create')}:
        used = list(history.of('trust.use', trust=trust))
        given = [x for x in used if x.outcome == OK]
        # A use whose answer was lost may be lost (the page on deviations).
        unknown = sum(x.outcome == UNKNOWN for x in used)
        if len(given) > limit:
            yield Violation(f'{trust} is used {limit} times', given)
        for read in history.of('trust.show', trust=trust):
            if not time.is_last(read):
                continue
            left = read.shown.get('left', 0)
            least = limit - len(given) - unknown
            gone = any(
                x.outcome in _MAY_BE
                for x in history.of('trust.delete', trust=trust)
            )
            if read.outcome == OK and not (
                least <= left <= limit - len(given)
            ):
                yield Violation(f'{trust} counts its uses', [read, *given])
            if read.outcome == REFUSED and least > 0 and not gone:
                yield Violation(f'{trust} is there', [read, *given])
