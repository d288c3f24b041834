# SPDX-License-Identifier: Apache-2.0
"""What the doctor's checks say."""

from __future__ import annotations

import dataclasses
import enum


class State(enum.Enum):
    """How bad it is."""

    OK = 'ok'
    WARN = 'warn'
    FAIL = 'FAIL'


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    :ivar name: of the check.
    :ivar text: what was found, and what to do.
    """

    state: State
    name: str
    text: str

    def __str__(self) -> str:
        return f'{self.state.value:4}  {self.name}: {self.text}'


def ok(name: str, text: str) -> Finding:
    """Return a result that needs nothing done."""
    return Finding(State.OK, name, text)


def warn(name: str, text: str) -> Finding:
    """Return a result that somebody should look at."""
    return Finding(State.WARN, name, text)


def fail(name: str, text: str) -> Finding:
    """Return a result with which a server does not work, or not safely."""
    return Finding(State.FAIL, name, text)
