# SPDX-License-Identifier: Apache-2.0
"""Calls of a command to the keeper of a bed; with Python's library alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import CHECKOUT, LabError
from lab.ports import state_directory

SOCKET = 'keeper.sock'


class NotRunning(LabError):
    """This checkout has no bed."""


def prefix() -> str:
    """Return the beginning of the names of this checkout's folders."""
    return f'regions-{hashlib.sha256(CHECKOUT.encode()).hexdigest()[:8]}-'


def lock() -> str:
    """Return the path of the lock that ``up`` holds in this checkout."""
    return os.path.join(state_directory(), f'{prefix()[:-1]}.lock')


def folders() -> list[Path]:
    """Return the folders of this checkout's beds, also of dead ones."""
    return sorted(Path(state_directory()).glob(f'{prefix()}*'))


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a path that is short enough for the address of a socket."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f'/proc/self/fd/{folder}/{path.name}'
    finally:
        os.close(folder)


def bound(path: Path) -> socket.socket:
    """Return a Unix socket with this path."""
    made = socket.socket(socket.AF_UNIX)
    with _short(path) as short:
        made.bind(short)
    return made


def connect() -> socket.socket:
    """Return a connection to the keeper of this checkout's bed.

    :raises NotRunning: there is none.
    """
    for folder in folders():
        connection = socket.socket(socket.AF_UNIX)
        try:
            with _short(folder / SOCKET) as short:
                connection.connect(short)
        except OSError:
            connection.close()
        else:
            return connection
    raise NotRunning('no bed of this checkout is up (tools/regions up)')


def call(command: str, **arguments: Any) -> Any:
    """Let the keeper do something and return its result.

    :raises NotRunning: there is no bed.
    :raises LabError: it could not be done.
    """
    result, _ = call_with_descriptors(command, **arguments)
    return result


def call_with_descriptors(
    command: str, **arguments: Any
) -> tuple[Any, list[int]]:
    """Do as :func:`call`, and return the open files of the answer, too."""
    with connect() as connection:
        request = {'command': command, **arguments}
        connection.sendall(json.dumps(request).encode() + b'\n')
        text, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 8)
        while text and not text.endswith(b'\n'):
            more = connection.recv(1 << 16)
            if not more:
                break
            text += more
    if not text.endswith(b'\n'):
        raise LabError('the bed has ended meanwhile')
    answer = json.loads(text)
    if 'error' in answer:
        raise LabError(answer['error'])
    return answer['result'], descriptors


def _keeper(connection: socket.socket) -> int:
    """Return the process id of who listens at the other end."""
    size = struct.calcsize('3i')
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, _, _ = struct.unpack('3i', found)
    return int(pid)


def keeper() -> int:
    """Return the process id of the keeper, also before all is up.

    :raises NotRunning: there is none.
    """
    with connect() as connection:
        return _keeper(connection)


def end_keeper() -> bool:
    """Let the keeper stop all and wait for its end; False without one."""
    try:
        connection = connect()
    except NotRunning:
        return False
    with connection:
        with contextlib.suppress(ProcessLookupError):
            os.kill(_keeper(connection), signal.SIGTERM)
        # It has the other end until it ends.
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass
    return True
