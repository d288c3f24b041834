# SPDX-License-Identifier: Apache-2.0
"""What MariaDB runs as ``wsrep_sst_bed`` when a node joins the others.

The donor tells the joiner up to where what it has missed will be sent, by
Galera itself.  A whole data folder is never sent.  Both read what this prints.
With Python's own library alone.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

_PORT = 4444
#: Seconds.
_PATIENCE = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the donor's or the joiner's part; return the exit status."""
    parser = argparse.ArgumentParser()
    for name in 'role', 'address', 'gtid':
        parser.add_argument(f'--{name}', default='')
    parser.add_argument('--bypass', action='store_true')
    options, _ = parser.parse_known_args(arguments)
    if options.role == 'joiner':
        with listening(f'{options.address}:{_PORT}') as server:
            join(server)
        return 0
    if not options.bypass:
        print('the joiner needs what no node remembers', file=sys.stderr)
        return 1
    _give(options.address, options.gtid)
    return 0


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.partition('/')[0].partition(':')
    return host, int(port)


def listening(address: str) -> socket.socket:
    """Return the joiner's socket, and say where it is.

    :param address: ``host:port``; 0 for a free port.
    """
    server = socket.create_server(_parsed(address))
    host, port = server.getsockname()
    print(f'ready {host}:{port}/', flush=True)
    return server


def join(server: socket.socket) -> None:
    """Wait for the donor, and say what it tells."""
    # Without an end: MariaDB ends it if no donor is found.
    connection, _ = server.accept()
    with connection, connection.makefile() as told:
        print(told.readline().strip(), flush=True)


def _give(address: str, position: str) -> None:
    with socket.create_connection(_parsed(address), _PATIENCE) as connection:
        connection.sendall(f'{position}\n'.encode())
    print(f'done {position}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
