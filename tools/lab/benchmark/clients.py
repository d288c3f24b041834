# SPDX-License-Identifier: Apache-2.0
"""Client processes, each with its own configuration and sessions.

They are forked from a process that has loaded what it takes (:data:`preload`)
and connected to nothing; a client opens what it needs at first use.  It dies
with the benchmark.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import Any

from lab import LabError

#: Names modules that clients are forked with.
preload = multiprocessing.set_forkserver_preload

#: What a client has open.
_opened: Any = None


class Pool:
    """Clients with one configuration; those that are needed are started.

    :param make: called once in each new process with its number; what it
        returns is the first argument of every function that is run there.
    :param method: ``spawn`` for processes that have loaded nothing.
    """

    def __init__(
        self, make: Callable[[int], Any], method: str = 'forkserver'
    ) -> None:
        self._make = make
        self._context = multiprocessing.get_context(method)
        self._clients: list[ProcessPoolExecutor] = []

    def shrink(self, count: int) -> None:
        """Stop all but this many."""
        while len(self._clients) > count:
            self._clients.pop().shutdown()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(made, *arguments)``, run in the first client."""
        return self.share(function, [arguments])[0]

    def share(
        self, function: Callable[..., Any], shares: Sequence[Sequence[Any]]
    ) -> list[Any]:
        """Run a function in as many clients as there are shares, at once.

        :param shares: the arguments of each.
        :raises LabError: if one failed; the text has the trace.
        """
        while len(self._clients) < len(shares):
            self._clients.append(
                ProcessPoolExecutor(
                    1, self._context, _begin, (self._make, len(self._clients))
                )
            )
        under_way = [
            client.submit(_run, function, arguments)
            for client, arguments in zip(self._clients, shares, strict=False)
        ]
        try:
            return [future.result() for future in under_way]
        except BrokenExecutor as error:
            raise LabError('a client process died') from error


def _begin(make: Callable[[int], Any], number: int) -> None:
    global _opened
    # The owner hears Ctrl-C and then ends its clients.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    _opened = make(number)


def _end_with_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)


def _run(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(_opened, *arguments)
    except Exception:
        # Not all exceptions can be sent from one process to another.
        told = traceback.format_exc()
        raise LabError(f'a client process failed:\n{told}') from None


def stop_all() -> None:
    """Kill every client, whatever it does."""
    for process in multiprocessing.active_children():
        process.kill()
