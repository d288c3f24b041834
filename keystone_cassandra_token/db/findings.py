# SPDX-License-Identifier: Apache-2.0
"""Findings: what a check found; no I/O."""

from __future__ import annotations

import dataclasses
import enum


class State(enum.Enum):
    """The severity of a finding; a server must not serve with FAIL."""

    OK = 'ok'
    WARN = 'warn'
    FAIL = 'FAIL'


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check.

    :ivar name: the name of the check.
    :ivar text: what was found and what to do, naming options.
    """

    state: State
    name: str
    text: str

    def __str__(self) -> str:
        return f'{self.state.value:4}  {self.name}: {self.text}'


def ok(name: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(State.OK, name, text)


def warn(name: str, text: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(State.WARN, name, text)


def fail(name: str, text: str) -> Finding:
    """Return a finding with which a server does not work, or not safely."""
    return Finding(State.FAIL, name, text)
