# SPDX-License-Identifier: Apache-2.0
"""Attempts at a change that others may make at the same moment.

::

    attempts = Attempts('project', project_id)
    while attempts.another():
        ...

What is lost against another's change is read and tried again, after a pause
that grows and is never twice the same, so that two servers do not meet again.
It ends: a client is better told to come back than kept waiting.
"""

from __future__ import annotations

import random
import time
from typing import Literal

from keystone_cassandra_token.db import errors, metrics, remembered

#: How a pause is made; takes seconds.
pause = time.sleep

#: Attempts, and seconds in which the last one may begin.
MOST = 16
SECONDS = 10.0

#: Seconds of the longest first pause, and of the longest one at all.
_FIRST = 0.005
_LONGEST = 0.2


class Attempts:
    """The attempts at one change.

    :param what: what is changed, as the message names it.
    :param name: its id.
    """

    def __init__(self, what: str, name: object, most: int = MOST) -> None:
        self._what = f'{what} {name}'
        self._most = most
        self._made = 0
        self._end = time.monotonic() + SECONDS

    def another(self) -> Literal[True]:
        """Begin an attempt, after a pause if it is not the first.

        :raises Contended: if there have been enough.
        """
        if self._made:
            metrics.count(metrics.CONTENTION, 'lost')
            longest = min(_LONGEST, _FIRST * 2 ** (self._made - 1))
            seconds = random.uniform(0, longest)
            if (
                self._made >= self._most
                or time.monotonic() + seconds > self._end
            ):
                metrics.count(metrics.CONTENTION, 'given_up')
                raise errors.Contended(
                    f'Too many concurrent updates of {self._what}; retry.'
                )
            pause(seconds)
            remembered.forget()
        self._made += 1
        return True
