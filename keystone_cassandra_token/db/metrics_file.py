# SPDX-License-Identifier: Apache-2.0
"""Files of prometheus_client's multi-process mode that one process writes.

Imported where metrics are on alone, since it imports prometheus_client.
"""

from __future__ import annotations

import fcntl
import itertools
import os

from prometheus_client import mmap_dict

#: Bytes of an entry beside its key, at most.
_BESIDE_KEY = 32

#: Gauges of a process that has ended count no more: the reader leaves the
#: whole file out.
_LIVE = 'gauge_livesum'


class File(mmap_dict.MmapedDict):
    """Values by key, mapped into memory.

    The base class makes files with holes and writes to mapped memory: where
    the disk is full then, the system kills the process.  So what is written
    to is allocated before, which raises :class:`OSError` instead.
    """

    def __init__(self, path: str) -> None:
        with open(path, 'ab') as file:
            if os.fstat(file.fileno()).st_size == 0:
                os.posix_fallocate(file.fileno(), 0, 1 << 16)
        super().__init__(path)

    def forget(self) -> None:
        """Set all values to 0."""
        for key in list(self._positions):
            self.write_value(key, 0.0, 0.0)

    def _init_value(self, key: str) -> None:
        end = self._used + len(key.encode()) + _BESIDE_KEY
        os.posix_fallocate(self._f.fileno(), 0, end)
        super()._init_value(key)


class Slot:
    """The files of one process, one for each kind of metric.

    A process takes the first slot that no living one has, and goes on with
    the counters of the one that had it before: prometheus_client names files
    by process, and those of workers that ended would stay for ever.  A slot is
    taken by a lock, which the system releases when the process ends.

    :raises OSError: if files cannot be made in the directory.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        for self._number in itertools.count(1):
            path = self._path(_LIVE)
            try:
                # Kept open: it holds the lock.
                self._lock = open(path, 'ab')  # noqa: SIM115
            except PermissionError:
                if not os.path.exists(path):
                    raise
                continue  # another user's
            try:
                # Who looks whether it is taken has a lock for a moment; then
                # the next slot is as good.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                continue
            break
        self._gauges = File(path)
        self._gauges.forget()

    def open(self, kind: str) -> File:
        """Open the file of a kind of metric."""
        return self._gauges if kind == 'gauge' else File(self._path(kind))

    def leave(self) -> None:
        """Leave it to the parent, in a process that was forked."""
        self._lock.close()

    def _path(self, kind: str) -> str:
        return os.path.join(self._directory, f'{kind}_{self._number}.db')


def is_live(path: str) -> bool:
    """Return whether the process that writes a file of gauges is alive."""
    with open(path, 'rb') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
