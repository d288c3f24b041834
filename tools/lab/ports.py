# SPDX-License-Identifier: Apache-2.0
"""Free addresses and ports on loopback.

Linux answers on the whole of 127.0.0.0/8.  Each cluster gets a block
127.x.y.0/24 of its own and its nodes the addresses .1, .2, ..., so that
several clusters can use the usual port numbers at the same time.
"""

import contextlib
import errno
import fcntl
import os
import random
import socket
from collections.abc import Iterator, Sequence

from lab import LabError

TRIES = 200


def state_directory() -> str:
    """The folder of this user's clusters, made if it is not there.

    Below /var/tmp rather than /tmp or the run-time folder, which often are
    memory: data files do not belong there, and a commit log on them would
    be faster than any disk.
    """
    path = os.environ.get('KEYSTONE_CASSANDRA_STATE_DIR') or os.path.join(
        os.environ.get('TMPDIR') or '/var/tmp',
        f'keystone-cassandra-{os.getuid()}',
    )
    path = os.path.abspath(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.lstat(path)
    # Anybody can make a folder of this name in a shared place.
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise LabError(
            f'{path} must belong to you and be writable for you alone;'
            ' remove it, or name another folder in'
            ' KEYSTONE_CASSANDRA_STATE_DIR'
        )
    return path


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if it is not there."""
    with open(path, 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_free(address: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        # Connections in TIME_WAIT are no hindrance to it, as to servers.
        socket.create_server((address, port)).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return False
        raise
    return True


def free_port(address: str = '127.0.0.1') -> int:
    """A port that nothing listens on at this moment."""
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


def take(
    directory: str,
    name: str | None,
    nodes: int,
    ports: Sequence[int],
    fixed: Sequence[int] = (),
) -> tuple[str, int]:
    """Choose a block, and what to add to all ports, and return both.

    The block is that of the cluster kept in this directory, until
    ``release`` or until the directory is gone.  The shift is 0 unless
    something listens on one of the ports on *every* address.  Fixed ports
    are never shifted.

    :param name: whoever gives the same one tries the same blocks, so that
        its addresses mostly stay the same; without one they are random.
    :raises LabError: no block is free.
    """
    claims = os.path.join(state_directory(), 'blocks')
    os.makedirs(claims, exist_ok=True)
    chance = random.Random(name)
    with locked(f'{claims}.lock'):
        for _ in range(TRIES):
            prefix = f'127.{chance.randint(1, 254)}.{chance.randint(0, 255)}'
            claim = os.path.join(claims, prefix)
            if os.path.exists(claim):  # a link to a folder that is there
                continue
            for shift in (0, 10_000, 20_000, 30_000):
                if all(
                    is_free(f'{prefix}.{node}', port)
                    for node in range(1, nodes + 1)
                    for port in (*fixed, *(port + shift for port in ports))
                ):
                    release(prefix)  # its owner was killed
                    os.symlink(directory, claim)
                    return prefix, shift
    busy = [port for port in fixed if not is_free(f'{prefix}.1', port)]
    if busy:
        raise LabError(
            f'port {busy[0]} is taken on all addresses: another program'
            ' listens on it. Choose another port'
        )
    raise LabError(
        f'no free loopback address for {nodes} nodes: on every one that was'
        f' tried something listens on one of the ports'
        f' {", ".join(map(str, (*fixed, *ports)))}'
    )


def release(prefix: str, directory: str | None = None) -> None:
    """Give a block back, if it is that of this directory (default: any)."""
    claim = os.path.join(state_directory(), 'blocks', prefix)
    with contextlib.suppress(FileNotFoundError):
        if directory in (None, os.readlink(claim)):
            os.unlink(claim)
