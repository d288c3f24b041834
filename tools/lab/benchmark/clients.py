# SPDX-License-Identifier: Apache-2.0
"""Client processes: forked, each with its own configuration and sessions.

The parent loads Keystone and the drivers, connects to nothing, and forks;
a client opens what it needs at first use.  It dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lab import LabError
from lab.benchmark.measure import Sample

_fork = multiprocessing.get_context('fork')
_open: set[Client] = set()

_PR_SET_PDEATHSIG = 1

#: Clients that work together begin together, this many seconds after the
#: order was given.
_HEAD_START = 0.05


class Client:
    """A process that runs functions of ours, one at a time.

    :param make: called once in the new process; what it returns is the
        first argument of every function that is run there.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._pipe, child_end = _fork.Pipe()
        owner = os.getpid()
        self._process = _fork.Process(
            target=self._serve, args=(child_end, make, owner), daemon=True
        )
        self._process.start()
        child_end.close()
        _open.add(self)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begin ``function(made, *arguments)`` in the process."""
        self._pipe.send((function, arguments))

    def receive(self) -> Any:
        """Wait for the result of what was begun last.

        :raises LabError: if it failed; the text has the trace.
        """
        try:
            good, result = self._pipe.recv()
        except EOFError:
            raise LabError('a client process died') from None
        if not good:
            raise LabError(f'a client process failed:\n{result}')
        return result

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(made, *arguments)``, run in the process."""
        self.send(function, *arguments)
        return self.receive()

    def stop(self) -> None:
        """End the process; may be called again."""
        if self in _open:
            _open.discard(self)
            self._pipe.close()
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

    def _serve(
        self,
        pipe: multiprocessing.connection.Connection,
        make: Callable[[], Any],
        owner: int,
    ) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != owner:
            return  # it died before it could be watched
        # The owner hears Ctrl-C and then ends its clients.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ends that were inherited would keep other clients' pipes open.
        self._pipe.close()
        for other in _open:
            other._pipe.close()
        made = make()
        with contextlib.suppress(EOFError, OSError):
            while True:
                function, arguments = pipe.recv()
                try:
                    answer = (True, function(made, *arguments))
                except Exception:
                    answer = (False, traceback.format_exc())
                pipe.send(answer)
        os._exit(0)


class Pool:
    """Clients with one configuration; those that are needed are started."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._clients: list[Client] = []

    def take(self, count: int) -> list[Client]:
        """Return this many clients."""
        while len(self._clients) < count:
            self._clients.append(Client(self._make))
        return self._clients[:count]

    def shrink(self, count: int) -> None:
        """Stop all but this many."""
        while len(self._clients) > count:
            self._clients.pop().stop()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the first client."""
        return self.take(1)[0].call(function, *arguments)

    def share(
        self, function: Callable[..., Any], shares: Sequence[Sequence[Any]]
    ) -> list[Any]:
        """Run a function in as many clients as there are shares, at once.

        :param shares: the arguments of each.
        """
        clients = self.take(len(shares))
        for client, arguments in zip(clients, shares, strict=True):
            client.send(function, *arguments)
        return [client.receive() for client in clients]

    def measure(
        self, function: Callable[..., Sample], clients: int, *arguments: Any
    ) -> list[Sample]:
        """Run ``function(made, begin, *arguments)`` in several clients.

        ``begin`` is the moment at which all are to start, see
        :func:`wait_until`.
        """
        begin = time.monotonic() + _HEAD_START
        return self.share(function, [(begin, *arguments)] * clients)


def wait_until(moment: float) -> None:
    """Sleep until the monotonic clock shows this."""
    time.sleep(max(0.0, moment - time.monotonic()))


@contextlib.contextmanager
def all_stopped() -> Iterator[None]:
    """Stop every client at the end of the context."""
    try:
        yield
    finally:
        for client in list(_open):
            client.stop()
