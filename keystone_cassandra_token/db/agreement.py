# SPDX-License-Identifier: Apache-2.0
"""How long a client's request waits for what other regions must answer.

While this region is cut off each of these statements would take its whole
time-out, and a request sends several: a claim, the look that finds out what
became of it, the claims that it frees again.  So all that is not answered in a
row shares ``[cassandra] claim_wait``, from the first that was sent on.  An
answer ends that: a request that makes several claims has as much for each.

What has failed so fails at once for a second, for all requests of a process.
Then one of them tries again.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from keystone_cassandra_token.db import errors
from keystone_cassandra_token.db.consistency import Operation

#: Seconds for which what needs other regions fails at once after a failure.
HOLDS = 1.0

#: The part of the wait that the first of them has.  A write leaves the rest
#: for the look, a read for another node.
FIRST = 0.6

#: Seconds that are enough to try it.
LEAST = 0.03


class Silence:
    """Since when a request has not heard from other regions.

    One for each thread of a request.

    :ivar since: when the first of those was sent that were not answered in a
        row, as ``time.monotonic()`` counts; None if the last one was.
    :ivar asked: the nodes that were waited for since.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.asked: set[Any] = set()


class CutOff:
    """Which operations have failed a moment ago for want of other regions.

    What needs every region says nothing of what needs most of them: with one
    of three away, the others agree.
    """

    def __init__(self) -> None:
        # By what is needed: until when it fails at once, why, and the thread
        # that tries it again meanwhile.
        self._failed: dict[str, tuple[float, str, int | None]] = {}

    def began(self, operation: Operation, reason: str) -> None:
        """Note that it failed."""
        until = time.monotonic() + HOLDS
        self._failed[_needed(operation)] = until, reason, None

    def check(self, operation: Operation) -> None:
        """Let it be tried, or fail.

        :raises StoreUnavailable: with the reason of the last failure.
        """
        needed = _needed(operation)
        failed = self._failed.get(needed)
        if failed is None:
            return
        until, reason, tries = failed
        now, thread = time.monotonic(), threading.get_ident()
        if now >= until:
            self._failed[needed] = now + HOLDS, reason, thread
        elif tries != thread:
            raise errors.StoreUnavailable(reason)

    def ended(self, operation: Operation) -> None:
        """Note that it was answered."""
        self._failed.pop(_needed(operation), None)


def _needed(operation: Operation) -> str:
    return 'each' if operation is Operation.ESCALATED_READ else 'most'


class Turn:
    """One statement that other regions must answer.

    :param silence: that of its request, in its thread.
    :param cut_off: of the process.
    :param wait: seconds that the request waits in silence, at most.
    """

    def __init__(
        self,
        silence: Silence,
        cut_off: CutOff,
        operation: Operation,
        wait: float,
    ) -> None:
        self._silence = silence
        self._cut_off = cut_off
        self._operation = operation
        self._wait = wait
        self._is_first = silence.since is None
        self._since = silence.since or time.monotonic()

    def check(self) -> None:
        """As :meth:`CutOff.check`."""
        self._cut_off.check(self._operation)

    def seconds(self) -> float:
        """Return the seconds that it has.

        :raises StoreUnavailable: if it has none.
        """
        if self._is_first:
            return FIRST * self._wait
        if self.is_over():
            raise errors.StoreUnavailable(
                'Other regions (datacenters) did not answer within [cassandra]'
                ' claim_wait.'
            )
        return self._left()

    def is_over(self) -> bool:
        """Return whether the request has waited as long as it may."""
        return not self._is_first and self._left() < LEAST

    def _left(self) -> float:
        return self._since + self._wait - time.monotonic()

    def answered(self) -> None:
        """Note that it was answered."""
        self._silence.since = None
        self._silence.asked.clear()
        self._cut_off.ended(self._operation)

    def failed(self, error: BaseException) -> None:
        """Note that it was not answered, or that nodes could not do it."""
        self._is_first = False
        before = self._silence.since
        # Of several that are under way at once the first one counts.
        self._silence.since = min(before or self._since, self._since)
        self._silence.asked.add(getattr(error, 'last_host', None))

    def gives_up(self, reason: str) -> set[Any]:
        """Let it fail at once for a moment; return the nodes that were asked.

        They have waited, too.
        """
        self._cut_off.began(self._operation, reason)
        return self._silence.asked
