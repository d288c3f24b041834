# SPDX-License-Identifier: Apache-2.0
"""The same in many processes, at one moment."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

# Forked after first use of the session: each child must open its own.
_processes = multiprocessing.get_context('fork')

#: Seconds to wait for what a process says.
_PATIENCE = 120


def run(
    target: Callable[..., object], arguments: Sequence[Any], count: int
) -> list[Any]:
    """Run a function in many processes at once; return what they say.

    :param target: is given a barrier, at which all wait once they are ready,
        and a queue for the one thing that it says; then the arguments.
    """
    start = _processes.Barrier(count)
    results = _processes.Queue()
    children = [
        _processes.Process(target=target, args=(start, results, *arguments))
        for _ in range(count)
    ]
    try:
        for child in children:
            child.start()
        return [results.get(timeout=_PATIENCE) for _ in children]
    finally:
        for child in children:
            child.join(10)
            child.kill()
