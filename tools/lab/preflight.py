# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` does first: look before anything is made.

The arguments, and all that a run needs of the machine.  With Python's own
library alone, since the environment is not there yet.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lab import LabError
from lab.cassandra import CONTACT_POINTS, Cluster
from lab.cassandra_install import (
    find_jars,
    find_java,
    find_maven,
    jars_directory,
)
from lab.kept import CHECKOUT, kept, stop
from lab.ports import state_directory

PROGRAM = 'tools/demo'
#: The exit status that says: all is there, run the demo.
GO_ON = 10

#: Megabytes that a run needs: in its state folder, for Cassandra's jars with
#: Maven's copy, and for the Python environment.
_STATE_MB = 500
_JARS_MB = 200
_ENVIRONMENT_MB = 700

_DESCRIPTION = """\
Start Cassandra and a Keystone that has no SQL database, and watch tokens,
trusts, revocations, users and credentials live and end in Cassandra. The
first look takes half a minute, all of it two to three; then everything is
stopped and removed, also after Ctrl-C.
"""
_EPILOG = f"""\
environment:
  ADMIN_PASSWORD       password of the user admin (default: a random one)
  {CONTACT_POINTS}
                       an existing cluster to use, host[,host][:port]; the
                       demo makes keyspaces of its own there and drops them
  KEYSTONE_CASSANDRA_VENV
                       folder of the Python environment (default: .venv in
                       the checkout)
  KEYSTONE_CASSANDRA_STATE_DIR
                       folder for data (default: keystone-cassandra-UID in
                       TMPDIR or /var/tmp)
  NO_COLOR             no colours, and plain lines
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--keep',
        action='store_true',
        help='leave all running, and say how to use it',
    )
    parser.add_argument(
        '--stop',
        action='store_true',
        help='stop what --keep left running in this checkout (with --port:'
        ' that one only)',
    )
    parser.add_argument(
        '--all',
        action='store_true',
        help='with --stop: also what other checkouts of this account left',
    )
    parser.add_argument(
        '--port',
        type=_port,
        default=0,
        metavar='N',
        help='port of Keystone on 127.0.0.1 (default: a free one)',
    )
    parser.add_argument(
        '--workers',
        type=_workers,
        default=2,
        metavar='N',
        help='worker processes of Keystone, at least 2 (default: 2)',
    )
    parser.add_argument(
        '--config-file',
        type=_file,
        action='append',
        default=[],
        metavar='FILE',
        help='further oslo.config file for Keystone; may be repeated, the'
        ' last one wins',
    )
    options = parser.parse_args(argv)
    if options.keep and options.stop:
        parser.error('--keep and --stop exclude each other')
    if options.all and not options.stop:
        parser.error('--all goes with --stop')
    return options


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(
            f'must be a number from 1 to 65535, not {text!r}'
        )
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(
            'must be a number of at least 2: the demo shows that one worker'
            ' sees what another did'
        )
    return int(text)


def _file(text: str) -> Path:
    if not os.path.isfile(text) or not os.access(text, os.R_OK):
        raise argparse.ArgumentTypeError(f'{text} cannot be read')
    return Path(text).absolute()


def problems(options: argparse.Namespace) -> Iterator[str]:
    """Yield what keeps the demo from running here, and what to do."""
    needs: list[tuple[str, int]] = []
    venv = environment()
    if not os.path.exists(os.path.join(venv, 'keystone-cassandra.stamp')):
        needs.append((venv, _ENVIRONMENT_MB))
        yield from _unwritable(
            venv,
            'the Python environment',
            'Let KEYSTONE_CASSANDRA_VENV name another folder',
        )
    if given := os.environ.get(CONTACT_POINTS):
        yield from _silent(given)
    else:
        yield from _error_of(find_java)
        jars = jars_directory()
        if not os.path.isdir(jars):
            needs.append((jars, _JARS_MB))
            yield from _error_of(find_maven)
            yield from _unwritable(
                jars, "Cassandra's jars", 'Let XDG_CACHE_HOME name another one'
            )
    yield from _taken(options.port)
    unusable = list(_unusable_state())
    yield from unusable
    if not unusable:
        needs.append((state_directory(), _STATE_MB))
    yield from _full(needs)


def environment() -> str:
    """Return the folder of the Python environment."""
    return os.environ.get('KEYSTONE_CASSANDRA_VENV') or os.path.join(
        CHECKOUT, '.venv'
    )


def _error_of(find: Callable[[], object]) -> Iterator[str]:
    try:
        find()
    except LabError as error:
        yield str(error)


def _silent(contact_points: str) -> Iterator[str]:
    try:
        nodes = Cluster.external(contact_points).nodes
    except LabError as error:
        yield str(error)
        return
    if not any(node.answers() for node in nodes):
        yield (
            f'No Cassandra answers at {CONTACT_POINTS}={contact_points}.'
            ' Start it, or unset the variable: then the demo starts one.'
        )


def _taken(port: int) -> Iterator[str]:
    with socket.socket() as probe:
        # As the server does: connections in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
            probe.listen()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            if error.errno == errno.EADDRINUSE:
                reason = 'another program listens there'
            if any(kept(port=port)):
                reason = 'a demo that was kept has it (tools/demo --stop)'
            yield (
                f'Port {port} of 127.0.0.1 cannot be used: {reason}. Choose'
                ' another one with --port, or leave that out.'
            )


def _unusable_state() -> Iterator[str]:
    try:
        with tempfile.TemporaryFile(dir=state_directory()):
            pass
    except LabError as error:
        yield str(error)
    except OSError as error:
        yield (
            f'{error.strerror}: {error.filename}. Data goes there; let'
            ' KEYSTONE_CASSANDRA_STATE_DIR name another folder.'
        )


def _unwritable(path: str, what: str, advice: str) -> Iterator[str]:
    place = _existing(path)
    if not os.access(place, os.W_OK | os.X_OK):
        yield (
            f'{place} cannot be written, and {what} would go to {path}.'
            f' {advice}.'
        )


def _existing(path: str) -> str:
    """Return the path, or the nearest folder above it that is there."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _full(needs: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yield the disks that have less room than the needs of all on them."""
    disks: dict[int, tuple[list[str], int]] = {}
    for path, megabytes in needs:
        place = _existing(path)
        paths, sum_ = disks.setdefault(os.stat(place).st_dev, ([], 0))
        disks[os.stat(place).st_dev] = ([*paths, path], sum_ + megabytes)
    for paths, megabytes in disks.values():
        free = shutil.disk_usage(_existing(paths[0])).free // 2**20
        if free < megabytes:
            yield (
                f'{free} MB are free for {", ".join(paths)}, and the demo'
                f' needs about {megabytes} there. Make room, or see'
                f' {PROGRAM} --help for how to name other folders.'
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Look, stop what was kept if asked to; return the exit status."""
    options = arguments(argv)
    # Ended by kill(1) as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.stop:
            stop(options.all, options.port)
            return 0
        found = list(problems(options))
        for text in found:
            print(f'{PROGRAM}: {text}', file=sys.stderr)
        if found:
            return 1
        if not os.environ.get(CONTACT_POINTS):
            find_jars()
    except (LabError, OSError) as error:
        print(f'{PROGRAM}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{PROGRAM}: interrupted', file=sys.stderr)
        return 130
    return GO_ON


if __name__ == '__main__':
    sys.exit(main())
