# SPDX-License-Identifier: Apache-2.0
"""Child processes that never outlive their owner.

``Group.spawn`` starts each child in a session of its own, so that Ctrl-C
reaches the owner only, which then stops its children in order.  A watcher,
a small Python process, waits for the owner's death (also by SIGKILL) and
then kills every process of the group.  The parent-death signal of Linux is
not used: it fires when the *thread* that forked ends, and it cannot be
called back for a cluster that is meant to stay.

A process belongs to a folder, and to those above it, when its environment
names it: no pid file, and no number that meanwhile is another process's.
With Python's own library alone: what was left running is stopped where
nothing else is installed.  The environment cannot be read for a moment while
a new child is being set up: the watcher looks several times, and the owner
knows its children.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = 'KEYSTONE_CASSANDRA_LAB'


def marked(directory: str) -> list[int]:
    """The living processes that belong to a folder or one below it."""
    mark = f'\0{MARK}={directory}'.encode()
    found = []
    for entry in filter(str.isdigit, os.listdir('/proc')):
        # Ended meanwhile, or another user's; that of a zombie is empty.
        with (
            contextlib.suppress(OSError),
            open(f'/proc/{entry}/environ', 'rb') as file,
        ):
            _, found_mark, rest = (b'\0' + file.read()).partition(mark)
            if found_mark and rest[:1] in (b'\0', b'/'):
                found.append(int(entry))
    return found


def send(directory: str, *signals: int) -> list[int]:
    """Send signals to all processes of a folder; returns them."""
    found = marked(directory)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            for number in signals:
                os.kill(pid, number)
    return found


def _states(pid: int) -> set[str]:
    """The states of all threads of a process; empty if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return {
            # The name before it may have blanks and brackets.
            path.read_text().rpartition(')')[2].split()[0]
            for path in Path(f'/proc/{pid}/task').glob('*/stat')
        }
    return set()  # or a thread has just ended


def stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped, after SIGSTOP."""
    return _states(pid) == {'T'}


def _ended(pid: int) -> bool:
    """Whether a process has let go of all that it had open."""
    if not os.path.exists(f'/proc/{pid}'):
        return True
    states = _states(pid)
    return bool(states) and states <= {'Z', 'X'}


def wait_gone(directory: str, seconds: float) -> None:
    """Wait until no process of a folder lives, at most so long."""
    deadline = time.monotonic() + seconds
    while marked(directory) and time.monotonic() < deadline:
        time.sleep(0.1)


def kill_marked(directory: str) -> None:
    """Kill every process of a folder and wait until they are gone."""
    # A round more: a member may have started another one meanwhile.
    for _ in range(3):
        if found := send(directory, signal.SIGKILL):
            wait_gone(directory, 10)
            # Its environment goes before its open files, and so its ports.
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and not all(map(_ended, found)):
                time.sleep(0.01)


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
            # A process of one group may own another: the marks must not mix.
            env={k: v for k, v in os.environ.items() if k != MARK},
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
        environment: Mapping[str, str] = os.environ,
        mark: str = '',
        **options: Any,
    ) -> 'subprocess.Popen[Any]':
        """Start a member.

        :param mark: a folder below the group's that it belongs to.
        :param options: those of ``subprocess.Popen``.
        """
        child = subprocess.Popen(
            command,
            env={**environment, MARK: mark or self.directory},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **options,
        )
        self._children.append(child)
        return child

    def kill(self) -> None:
        """Kill all members at once and end the watch."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        kill_marked(self.directory)
        self.release()

    def release(self) -> None:
        """End the watch: the members then live on without the owner."""
        self._watcher.terminate()
        self._watcher.wait()


def _watch(owner: int, directory: str, remove: bool) -> None:
    """Wait for the owner's end, then kill the group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A dead parent's children are given to another process, so this tells
    # whether the owner still lives.
    if os.getppid() == owner:
        with contextlib.suppress(BrokenPipeError):
            print('watching', flush=True)
    while os.getppid() == owner:
        time.sleep(0.5)
    kill_marked(directory)
    for pause in (0.3, 1, 2):
        time.sleep(pause)
        kill_marked(directory)
    if remove:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    _watch(int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'remove')
