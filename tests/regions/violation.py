# SPDX-License-Identifier: Apache-2.0
"""A promise that a history breaks."""

from __future__ import annotations

import dataclasses

from tests.regions.history import Operation


@dataclasses.dataclass(frozen=True)
class Violation:
    """What was promised, and which operations show otherwise.

    :ivar operations: the one that shows it first.
    """

    promise: str
    operations: list[Operation]

    @property
    def in_the_end(self) -> bool:
        """Whether it may yet be right when it is read again."""
        return self.operations[0].round > 0

    def __str__(self) -> str:
        return '\n'.join(
            [f'BROKEN: {self.promise}', *(f'  {x}' for x in self.operations)]
        )
