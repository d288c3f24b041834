# SPDX-License-Identifier: Apache-2.0
"""Wait for a condition, never for a length of time."""

import time
from collections.abc import Callable
from typing import TypeVar

from lab import LabError

#: Seconds that only what hangs can take, also on a slow and busy machine.
PATIENCE = 300

_T = TypeVar('_T')


class WaitedInVain(LabError):
    """What was waited for did not come."""


def until(
    condition: Callable[[], _T], what: str, timeout: float = PATIENCE
) -> _T:
    """Call ``condition`` until it returns something true, and return that.

    :param what: is waited for, in words that follow "for".
    :param timeout: seconds.
    :raises WaitedInVain: if it has not come by then.
    """
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise WaitedInVain(f'waited {timeout:g} s in vain for {what}')
        time.sleep(0.05)
    return found
