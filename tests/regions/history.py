# SPDX-License-Identifier: Apache-2.0
"""What clients of all regions were told, with times, and what went wrong.

A history is a file of JSON lines, so that one that broke a promise can be
looked at again (``python -m tests.regions.check FILE``).  Times are seconds
of one monotonic clock.  Tokens, passwords and names have labels: no line has
a secret.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

#: Outcomes: acknowledged; refused with a status that says so; nobody knows;
#: no server was there to take it.
OK, REFUSED, UNKNOWN, UNSENT = 'ok', 'refused', 'unknown', 'unsent'


@dataclasses.dataclass(frozen=True)
class Operation:
    """A request of a client, and what it was told.

    :ivar number: from 0, in the order in which they ended.
    :ivar region: where it was sent to.
    :ivar begin: when it was sent.
    :ivar end: when its outcome was known, or was given up.
    :ivar kind: what it asks for, as ``token.validate``.
    :ivar about: its arguments, by name.
    :ivar outcome: one of the four of this module.
    :ivar status: of HTTP; None without an answer.
    :ivar shown: what the answer says, by name.
    :ivar round: of the reads at the end; 0 before.
    """

    number: int
    region: int
    begin: float
    end: float
    kind: str
    about: dict[str, Any]
    outcome: str
    status: int | None = None
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)
    round: int = 0

    def __str__(self) -> str:
        about = ', '.join(f'{k} {v}' for k, v in self.about.items())
        said = self.status or 'no answer'
        return (
            f'{self.kind} ({about}) in region {self.region} at'
            f' {self.begin:.2f}-{self.end:.2f}: {self.outcome} {said}'
            f' {self.shown or ""}'.rstrip()
        )


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that went wrong on purpose, for a while.

    :ivar begin: before it was begun; ``since``: when it was in force.
    :ivar until: before it was ended; ``end``: when it was over.
    :ivar region: where; None for all.
    """

    kind: str
    region: int | None
    part: str | None
    begin: float
    since: float
    until: float
    end: float


@dataclasses.dataclass(frozen=True)
class Settled:
    """What was acknowledged before ``begin`` was everywhere by ``end``.

    :ivar repaired: also what a node that was killed had not yet sent.
    """

    begin: float
    end: float
    repaired: bool = False


_KINDS = {'operation': Operation, 'fault': Fault, 'settled': Settled}


@dataclasses.dataclass
class History:
    """All of a run.

    :ivar run: how it was made: ``seed``, ``regions``, ``bound`` (seconds
        after which regions that reach each other show each other's changes).
    """

    run: dict[str, Any]
    operations: list[Operation] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    settled: list[Settled] = dataclasses.field(default_factory=list)

    def of(self, *kinds: str, **about: Any) -> Iterator[Operation]:
        """Yield the operations of some kinds, and with these arguments."""
        wanted = about.items()
        for each in self.operations:
            if each.kind in kinds and wanted <= each.about.items():
                yield each

    @property
    def last_round(self) -> int:
        return max((each.round for each in self.operations), default=0)

    @classmethod
    def load(cls, lines: Iterable[str]) -> History:
        """Return what a file holds."""
        history = cls({})
        for line in lines:
            (name, values), *_ = json.loads(line).items()
            if name == 'run':
                history.run = values
            else:
                history.add(_KINDS[name](**values))
        return history

    def add(self, record: Operation | Fault | Settled) -> None:
        if isinstance(record, Operation):
            self.operations.append(record)
        elif isinstance(record, Fault):
            self.faults.append(record)
        else:
            self.settled.append(record)


class Recorder:
    """Makes a history, for several threads, and writes it to a file."""

    def __init__(self, run: dict[str, Any], path: Path | None = None) -> None:
        self.history = History(run)
        self._start = time.monotonic()
        self._file: TextIO | None = path.open('w') if path else None
        self._changed = threading.Condition()
        self.round = 0
        self._write('run', run)

    def now(self) -> float:
        return round(time.monotonic() - self._start, 4)

    def operation(self, **values: Any) -> Operation:
        """Record an operation that has ended."""
        with self._changed:
            made = Operation(
                number=len(self.history.operations),
                round=self.round,
                **values,
            )
            self._add('operation', made)
        return made

    def add(self, record: Fault | Settled) -> None:
        with self._changed:
            self._add(type(record).__name__.lower(), record)

    def _add(self, name: str, record: Operation | Fault | Settled) -> None:
        self.history.add(record)
        self._write(name, dataclasses.asdict(record))
        self._changed.notify_all()

    def _write(self, name: str, values: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps({name: values}) + '\n')

    def wait_for_operations(self, number: int, end: float) -> None:
        """Wait until so many more have ended, or a time has come.

        :param end: by ``now``.
        """
        with self._changed:
            whole = len(self.history.operations) + number
            self._changed.wait_for(
                lambda: len(self.history.operations) >= whole,
                max(0.0, end - self.now()),
            )

    def close(self) -> None:
        if self._file:
            self._file.close()


#: A time that never comes.
NEVER = math.inf
