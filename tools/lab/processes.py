# SPDX-License-Identifier: Apache-2.0
"""Child processes that never outlive their owner.

``Group.spawn`` starts each child in a session of its own, so that Ctrl-C
reaches the owner only, which then stops its children in order.  A watcher,
a small Python process, waits for the owner's death (also by SIGKILL) and
then kills every process of the group.  The parent-death signal of Linux is
not used: it fires when the *thread* that forked ends, and it cannot be
called back for a cluster that is meant to stay.

A process belongs to a group when its environment names the group's
directory; pid files are not needed for cleaning up.  The environment cannot
be read for a moment while a new child is being set up: the watcher looks
several times, and the owner knows its children.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MARK = 'KEYSTONE_CASSANDRA_LAB'


class Identity(NamedTuple):
    """A process, told apart from later ones with the same number."""

    pid: int
    started: int  # clock ticks since boot


def identity(pid: int) -> Identity | None:
    """The living process with this number; None where there is none.

    A zombie counts as dead.
    """
    try:
        with open(f'/proc/{pid}/stat', 'rb') as file:
            # The program's name, in parentheses, may hold any character.
            fields = file.read().rpartition(b')')[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b'Z', b'X'):
        return None
    return Identity(pid, int(fields[19]))


def alive(process: Identity) -> bool:
    return identity(process.pid) == process


def send(process: Identity, number: int) -> bool:
    """Send a signal; False if the process is gone."""
    if not alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(process: Identity, seconds: float) -> bool:
    """Wait until the process has ended; False if it has not in time."""
    deadline = time.monotonic() + seconds
    while alive(process):
        # Reaps the process if it is a child of ours.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def marked(directory: str) -> list[Identity]:
    """The living processes whose environment names this group."""
    mark = f'{MARK}={directory}'.encode()
    found = []
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        try:
            with open(f'/proc/{entry}/environ', 'rb') as file:
                environment = file.read().split(b'\0')
        except OSError:
            continue  # ended meanwhile, or another user's
        process = identity(int(entry))
        if mark in environment and process:
            found.append(process)
    return found


def kill_marked(directory: str) -> None:
    """Kill every process of a group and wait until they are gone."""
    # A round more: a member may have started another one meanwhile.
    for _ in range(3):
        processes = marked(directory)
        for process in processes:
            send(process, signal.SIGKILL)
        for process in processes:
            wait_gone(process, 10)
        if not processes:
            break


class Group:
    """The processes that one owner started, and the watcher over them.

    :param directory: absolute path; names the group.
    :param remove: whether the directory goes when the owner dies.
    """

    def __init__(self, directory: str, remove: bool) -> None:
        self.directory = directory
        self._children: list[subprocess.Popen[Any]] = []
        self._watcher = subprocess.Popen(
            [
                sys.executable,
                # Isolated: the folder of this file stays off the module path.
                '-I',
                os.path.abspath(__file__),
                str(os.getpid()),
                directory,
                'remove' if remove else 'keep',
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_unmarked(),
            cwd='/',
        )
        assert self._watcher.stdout is not None
        # Nothing is spawned before the watcher watches.
        with self._watcher.stdout as ready:
            if ready.readline() != b'watching\n':
                raise RuntimeError('the watcher over processes did not start')

    def spawn(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> 'subprocess.Popen[Any]':
        """Start a member; options are those of ``subprocess.Popen``."""
        variables = dict(_unmarked() if environment is None else environment)
        variables[MARK] = self.directory
        options.setdefault('stdin', subprocess.DEVNULL)
        child = subprocess.Popen(
            command, env=variables, start_new_session=True, **options
        )
        self._children.append(child)
        return child

    def kill(self) -> None:
        """Kill all members at once and end the watch."""
        self.kill_members()
        self.release()

    def kill_members(self) -> None:
        """Kill all members at once; the watch goes on."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        kill_marked(self.directory)

    def release(self) -> None:
        """End the watch: the members then live on without the owner."""
        self._watcher.terminate()
        self._watcher.wait()


def _unmarked() -> dict[str, str]:
    # A process of one group may own another: the marks must not mix.
    return {k: v for k, v in os.environ.items() if k != MARK}


def _watch(owner_pid: int, directory: str, remove: bool) -> None:
    """Wait for the owner's end, then kill the group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    owner = identity(owner_pid)
    # A dead parent's children are given to another process: the owner may
    # have gone before its number was looked up, and been replaced.
    if os.getppid() == owner_pid and owner is not None:
        with contextlib.suppress(BrokenPipeError):
            print('watching', flush=True)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(owner_pid)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            while alive(owner):
                # Not for ever: an event that got lost must not keep it all.
                poll.poll(1_000)
    kill_marked(directory)
    for pause in (0.3, 1, 2):
        time.sleep(pause)
        kill_marked(directory)
    if remove:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    _watch(int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'remove')
