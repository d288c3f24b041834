# SPDX-License-Identifier: Apache-2.0
"""What remembers what was read, as a follower (:mod:`.following`) knows it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

from keystone_cassandra_token.db import changes


@dataclasses.dataclass(frozen=True)
class Mark:
    """How far those who share a cache have followed a datacenter.

    :ivar beat: its last pulse then, microseconds since 1970.
    :ivar done: ids of the last entries for which they have dropped something.
    :ivar gap: where a gap began that may still be filled; None without one.
    """

    beat: int
    done: frozenset[uuid.UUID] = frozenset()
    gap: int | None = None


class Caches(Protocol):
    """What remembers what was read, for one or more processes."""

    def are_used(self) -> bool:
        """Return whether anything is remembered."""

    def begin(self) -> None:
        """Begin a look: see what others of these processes have done."""

    def mark(self, datacenter: str) -> Mark | None:
        """Return the mark of a datacenter."""

    def set_mark(self, datacenter: str, mark: Mark) -> None:
        """Keep a mark."""

    def drop(self, told: Mapping[str, Sequence[changes.Key]]) -> None:
        """Drop what could be remembered of these keys of tables."""

    def drop_all(self) -> None:
        """Drop all."""


class NoCaches:
    """Nothing is remembered: what comes late matters there, too."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}

    def are_used(self) -> bool:
        """Return False."""
        return False

    def begin(self) -> None:
        """Do nothing."""

    def mark(self, datacenter: str) -> Mark | None:
        """Return the mark that was kept last."""
        return self._marks.get(datacenter)

    def set_mark(self, datacenter: str, mark: Mark) -> None:
        """Keep it in this process."""
        self._marks[datacenter] = mark

    def drop(self, told: Mapping[str, Sequence[changes.Key]]) -> None:
        """Do nothing."""

    def drop_all(self) -> None:
        """Do nothing."""
