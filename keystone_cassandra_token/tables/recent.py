# SPDX-License-Identifier: Apache-2.0
"""Read-ahead: what a process has read before, to guess the next read.

If the result of one read decides the next one, the second read is sent with
the first, for the result of last time.  That saves a round trip if nothing has
changed.  The result is always checked.
"""

from __future__ import annotations

import threading
from typing import Any


class ReadAheadCache:
    """The last values of a limited number of names.

    :param most: the largest number of names.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def get(self, name: Any) -> Any:
        """Return the value of a name, or None."""
        return self._values.get(name)

    def set(self, name: Any, value: Any) -> None:
        """Remember a value; None forgets the name."""
        with self._lock:
            self._values.pop(name, None)
            if value is not None:
                self._values[name] = value
            if len(self._values) > self._most:
                del self._values[next(iter(self._values))]
