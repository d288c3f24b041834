# SPDX-License-Identifier: Apache-2.0
"""What a process has read lately: guesses of what to read next.

Where one read tells what to read then, the second one can be sent along with
the first, for what it told last time.  That saves a round trip where nothing
changed, and a guess is never an answer.
"""

from __future__ import annotations

import threading
from typing import Any


class ReadAheadCache:
    """The values that were last set, of so many names.

    :param most: how many names.
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
