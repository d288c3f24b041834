# SPDX-License-Identifier: Apache-2.0
"""A file of prometheus_client's multi-process mode that one process writes.

Imported where metrics are on alone, since it imports prometheus_client.
"""

from __future__ import annotations

import fcntl
import os

from prometheus_client import mmap_dict

#: Bytes of an entry beside its key, at most.
_BESIDE_KEY = 32


class File(mmap_dict.MmapedDict):
    """Values by key, mapped into memory.

    The base class makes files with holes and writes to mapped memory: where
    the disk is full then, the system kills the process.  So what is written
    to is allocated before, which raises :class:`OSError` instead.

    :param live: hold a lock for as long as the process lives, which tells a
        reader that it does.
    """

    def __init__(self, path: str, live: bool) -> None:
        with open(path, 'ab') as file:
            if os.fstat(file.fileno()).st_size == 0:
                os.posix_fallocate(file.fileno(), 0, 1 << 16)
        super().__init__(path)
        if live:
            # Shared: a reader that looks at the same moment holds one, too,
            # and nobody waits.
            fcntl.flock(self._f.fileno(), fcntl.LOCK_SH)
            # Of a former process with this id.
            for key in list(self._positions):
                self.write_value(key, 0.0, 0.0)

    def _init_value(self, key: str) -> None:
        end = self._used + len(key.encode()) + _BESIDE_KEY
        os.posix_fallocate(self._f.fileno(), 0, end)
        super()._init_value(key)


def is_live(path: str) -> bool:
    """Return whether the process that writes a file is alive."""
    with open(path, 'rb') as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
