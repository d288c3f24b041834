# SPDX-License-Identifier: Apache-2.0
"""The cells of the table: what a request has waited for, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lab.benchmark.regions.sites import NO_ANSWER, Answer
from lab.benchmark.regions.tally import share

HERE = 'here'
#: What an answer takes longer than usual is told from so many round trips on:
#: less is the work of a busy machine.
NOTICED = 2


class Usual(NamedTuple):
    """What a request takes while all is well.

    :ivar at_once: seconds without a delay between regions, the shortest.
    :ivar seconds: with it, the shortest.
    """

    at_once: float
    seconds: float
    rtt_ms: float

    def trips(self, seconds: float) -> int:
        """Return the round trips between regions in a time, rounded."""
        return max(round((seconds - self.at_once) * 1000 / self.rtt_ms), 0)

    def _noticed(self, seconds: float) -> bool:
        return seconds * 1000 >= NOTICED * self.rtt_ms

    def told(self, answer: Answer) -> str:
        """Return what an answer has waited for, or how it failed."""
        if not answer.ok:
            status = str(answer.status)
            if answer.status == NO_ANSWER:
                status = 'no answer'
            if self._noticed(answer.seconds - self.at_once):
                return f'{status} after {answer.seconds:.1f} s'
            return f'{status} at once'
        if self._noticed(answer.seconds - self.seconds):
            return f'done after {answer.seconds:.1f} s'
        return round_trips(
            min(self.trips(answer.seconds), self.trips(self.seconds))
        )

    def alike(self, one: Answer, other: Answer) -> bool:
        """Whether two answers differ by a moment at most."""
        return self._outcome(one) == self._outcome(other) and not (
            self._noticed(abs(one.seconds - other.seconds))
        )

    @staticmethod
    def _outcome(answer: Answer) -> int | None:
        """Return the status of an error."""
        return None if answer.ok else answer.status


def round_trips(count: int) -> str:
    """Return a number of round trips in words."""
    if not count:
        return HERE
    return f'{count} round trip{"s" if count > 1 else ""}'


def shortest(usual: Usual, answers: Sequence[Answer]) -> str:
    """Return what the shortest of some good answers waits for."""
    return usual.told(min(answers, key=lambda each: each.seconds))


def in_order(usual: Usual, answers: Sequence[Answer]) -> str:
    """Return what becomes of answers that follow each other."""
    told: list[Answer] = []
    for answer in answers:
        if not told or not usual.alike(told[-1], answer):
            told.append(answer)
    return ', then '.join(map(usual.told, told))


def pooled(usual: Usual, answers: Sequence[Answer]) -> str:
    """Return what the shortest answer waits for, and the worst other one.

    One that fails is worse than one that lasts.
    """
    best, *others = sorted(
        answers, key=lambda each: (not each.ok, each.seconds)
    )
    others = [each for each in others if not usual.alike(best, each)]
    if not others:
        return usual.told(best)
    count = share(len(others), len(answers))
    return f'{usual.told(best)}; {count}: {usual.told(others[-1])}'
