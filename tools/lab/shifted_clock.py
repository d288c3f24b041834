# SPDX-License-Identifier: Apache-2.0
"""A server whose clock is wrong, while the machine's is right.

``install`` replaces, in the process that calls it and those that it forks:

* ``time.time`` and ``time.time_ns``: the timestamps that the Cassandra driver
  gives to writes, time-based UUIDs, caches, Fernet, logs;
* ``oslo_utils.timeutils.utcnow``: all that Keystone and the drivers of this
  package know of the present.

Not shifted: what calls ``datetime.now`` itself (the checks of JWS tokens),
monotonic clocks, as on a machine whose clock is set, and file times.  The
timestamps of writes and time-based UUIDs never go back in a process that
runs: they go on from the last one until the clock has caught up, as they do
on such a machine.  By how much the clock is wrong is in a file that all
processes map: a change is in force at once.
"""

from __future__ import annotations

import datetime
import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Names the file in the environment of a server.
VARIABLE = 'KEYSTONE_LAB_CLOCK'
#: Nanoseconds that are added.
_SHIFT = struct.Struct('=q')


class Shift:
    """How much a clock is wrong, in a file.

    :param path: of the file, made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        with path.open('ab') as file:
            if not file.tell():
                file.write(_SHIFT.pack(0))
        with path.open('r+b') as file:
            self._map = mmap.mmap(file.fileno(), _SHIFT.size)

    @property
    def nanoseconds(self) -> int:
        """What is added to the time."""
        (found,) = _SHIFT.unpack_from(self._map)
        return int(found)

    @property
    def seconds(self) -> float:
        """What is added to the time; negative for a clock that is behind."""
        return self.nanoseconds / 10**9

    @seconds.setter
    def seconds(self, value: float) -> None:
        _SHIFT.pack_into(self._map, 0, round(value * 10**9))


def install(path: Path) -> Shift:
    """Shift the clocks of this process by what a file says, from now on.

    To be called before what it is for is imported.
    """
    from oslo_utils import timeutils

    shift = Shift(path)
    time_ns = time.time_ns
    true_utcnow: Callable[..., datetime.datetime] = timeutils.utcnow

    def now_ns() -> int:
        return time_ns() + shift.nanoseconds

    def now() -> float:
        return now_ns() / 10**9

    def utcnow(*arguments: Any, **named: Any) -> datetime.datetime:
        return true_utcnow(*arguments, **named) + datetime.timedelta(
            microseconds=shift.nanoseconds / 1000
        )

    time.time_ns, time.time, timeutils.utcnow = now_ns, now, utcnow
    return shift
