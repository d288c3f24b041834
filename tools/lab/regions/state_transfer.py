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

PORT = 4444
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
        _join(options.address)
        return 0
    if not options.bypass:
        print('the joiner needs what no node remembers', file=sys.stderr)
        return 1
    _give(options.address, options.gtid)
    return 0


def _host(address: str) -> str:
    return address.partition('/')[0].partition(':')[0]


def _join(address: str) -> None:
    with socket.create_server((_host(address), PORT)) as server:
        print(f'ready {_host(address)}:{PORT}/', flush=True)
        # Without an end: MariaDB ends it if no donor is found.
        connection, _ = server.accept()
        with connection, connection.makefile() as told:
            print(told.readline().strip(), flush=True)


def _give(address: str, position: str) -> None:
    with socket.create_connection(
        (_host(address), PORT), timeout=_PATIENCE
    ) as connection:
        connection.sendall(f'{position}\n'.encode())
    print(f'done {position}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
