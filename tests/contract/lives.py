# SPDX-License-Identifier: Apache-2.0
"""What lives for a few seconds, however slow the machine is."""

from collections.abc import Callable
from typing import Any

from keystone import exception
from lab.waiting import PATIENCE, until


def long_enough(act: Callable[[int], Any]) -> Any:
    """Return what ``act(life)`` returns for a life that is long enough.

    :param act: makes something that lives for so many seconds, and uses it
        while it lives; raises ``NotFound`` if it came too late.
    """
    life = 2
    while True:
        try:
            return act(life)
        except exception.NotFound:
            life *= 2
            if life > PATIENCE:
                raise


def until_gone(there: Callable[[], Any]) -> None:
    """Wait until ``there()`` finds nothing."""
    until(lambda: not there(), 'the end of a life')
