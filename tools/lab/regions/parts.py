# SPDX-License-Identifier: Apache-2.0
"""What runs in a region, beside its Cassandra nodes: a Keystone, a cache."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Protocol

from lab import LabError, processes
from lab.processes import Group
from lab.regions.namespaces import Namespace
from lab.server import Keystone, Settings
from lab.waiting import until

CACHE_PORT = 11211
#: Seconds after which a server that says nothing does not answer.
_SILENT = 5


class Part(Protocol):
    """A server of a region."""

    directory: str  # to which its processes belong

    @property
    def running(self) -> bool:
        """Whether its process is there."""

    def start(self) -> None:
        """Start it, if it does not run, and wait until it answers."""

    def kill(self) -> None:
        """End it at once, as a crash does."""

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let it go on."""

    def answers(self) -> bool:
        """Whether it answers now."""


def condition(part: Part) -> str:
    """Return in a word or two how a part is."""
    found = processes.marked(part.directory)
    if not found:
        return 'stopped'
    if all(map(processes.stopped, found)):
        return 'paused'
    return 'up' if part.answers() else 'does not answer'


class Signalled:
    """The processes that belong to a folder, frozen and let go on."""

    def __init__(self, folder: Path) -> None:
        self.directory = str(folder)

    @property
    def running(self) -> bool:
        return bool(processes.marked(self.directory))

    def pause(self) -> None:
        found = self._signal(signal.SIGSTOP)
        # On a busy machine a thread can go on for a moment.
        until(
            lambda: all(map(processes.stopped, found)),
            f'a stop of the processes of {self.directory}',
        )

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> list[int]:
        found = processes.send(self.directory, number)
        if not found:
            raise LabError(f'nothing runs in {self.directory}')
        return found


class Server(Signalled):
    """A Keystone."""

    def __init__(self, keystone: Keystone) -> None:
        super().__init__(keystone.directory)
        self._keystone = keystone

    def start(self) -> None:
        if not self.running:
            self._keystone.kill()  # its group, if it ended by itself
            self._keystone.start()

    def kill(self) -> None:
        self._keystone.kill()

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._keystone.status('/v3', timeout=_SILENT) == 200
        return False


class Memcached(Signalled):
    """The cache that the workers of a region's Keystone share."""

    def __init__(
        self,
        program: str,
        address: str,
        folder: Path,
        namespace: Namespace,
        group: Group,
    ) -> None:
        super().__init__(folder)
        self.settings: Settings = {
            'cache': {
                'backend': 'dogpile.cache.pymemcache',
                'memcache_servers': [f'{address}:{CACHE_PORT}'],
            }
        }
        self._program = program
        self._address = address
        self._namespace = namespace
        self._group = group
        self._log = folder / 'memcached.log'
        folder.mkdir()

    def start(self) -> None:
        if self.running:
            return
        with self._log.open('ab') as log, self._namespace.entered():
            child = self._group.spawn(
                # It refuses to be root unless told so.
                [
                    *(self._program, '-u', 'root', '-l', self._address),
                    *('-p', str(CACHE_PORT), '-U', '0', '-m', '64'),
                ],
                mark=self.directory,
                stdout=log,
                stderr=log,
            )
        until(
            lambda: self.answers() or _ended(child, self._log),
            'an answer of memcached',
        )

    def kill(self) -> None:
        processes.kill_marked(self.directory)

    def answers(self) -> bool:
        try:
            with (
                self._namespace.entered(),
                socket.create_connection(
                    (self._address, CACHE_PORT), timeout=_SILENT
                ) as connection,
            ):
                connection.sendall(b'version\r\n')
                return connection.recv(7) == b'VERSION'
        except OSError:
            return False


def _ended(child: subprocess.Popen[Any], log: Path) -> bool:
    if child.poll() is not None:
        raise LabError(f'memcached ended:\n{log.read_text()}')
    return False


def find_memcached() -> str | None:
    """Return the program, None if it or its client is not installed."""
    if not importlib.util.find_spec('pymemcache'):
        return None
    return shutil.which('memcached')


#: Of the cache without memcached: each process has its own.
MEMORY: Settings = {'cache': {'backend': 'dogpile.cache.memory'}}
