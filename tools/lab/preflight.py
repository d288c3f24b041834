# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` does first: look before anything is made.

The arguments, and all that a run needs of the machine.  With Python's own
library alone, since the environment is not there yet.
"""

import argparse
import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab import CHECKOUT, LabError, command
from lab.cassandra import CONTACT_POINTS, Cluster
from lab.cassandra_install import (
    find_jars,
    find_java,
    find_maven,
    jars_directory,
)
from lab.kept import kept, stop
from lab.ports import state_directory
from lab.regions import namespaces

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
    option = parser.add_argument
    option(
        '--keep',
        action='store_true',
        help='leave all running, and say how to use it',
    )
    option(
        '--stop',
        action='store_true',
        help='stop what --keep left running in this checkout (with --port:'
        ' that one only)',
    )
    option(
        '--all',
        action='store_true',
        help='with --stop: also what other checkouts of this account left',
    )
    option(
        '--port',
        type=command.number(1, 65535),
        default=0,
        metavar='N',
        help='port of Keystone on 127.0.0.1 (default: a free one)',
    )
    option(
        '--workers',
        type=_workers,
        default=2,
        metavar='N',
        help='worker processes of Keystone, at least 2 (default: 2)',
    )
    option(
        '--regions',
        type=command.number(2, 5),
        metavar='N',
        help='show instead what N regions do when one is cut off and comes'
        ' back (as root: it makes network namespaces)',
    )
    option(
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
    if options.regions and (options.keep or options.stop):
        parser.error('--regions goes neither with --keep nor with --stop')
    if options.all and not options.stop:
        parser.error('--all goes with --stop')
    return options


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
    needs: dict[str, int] = {}
    venv = os.environ.get('KEYSTONE_CASSANDRA_VENV') or f'{CHECKOUT}/.venv'
    if not os.path.exists(os.path.join(venv, 'keystone-cassandra.stamp')):
        needs[venv] = _ENVIRONMENT_MB
        yield from _unwritable(
            venv,
            'the Python environment',
            'Let KEYSTONE_CASSANDRA_VENV name another folder',
        )
    given = os.environ.get(CONTACT_POINTS)
    if given and not options.regions:
        yield from _error_of(lambda: _ask(given))
    else:
        yield from _error_of(find_java)
        jars = jars_directory()
        if not os.path.isdir(jars):
            needs[jars] = _JARS_MB
            yield from _error_of(find_maven)
            yield from _unwritable(
                jars, "Cassandra's jars", 'Let XDG_CACHE_HOME name another one'
            )
    if options.regions:
        # Made and let go of: whether that is allowed.
        network = namespaces.Namespace
        yield from _error_of(lambda: network('10.77.1.254', []).close())
    yield from _taken(options.port)
    unusable = list(_error_of(_try_state))
    yield from unusable
    if not unusable:
        needs[state_directory()] = _STATE_MB
    yield from _full(needs)


def _error_of(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except LabError as error:
        yield str(error)


def _ask(contact_points: str) -> None:
    nodes = Cluster.external(contact_points).nodes
    if not any(node.answers() for node in nodes):
        raise LabError(
            f'No Cassandra answers at {CONTACT_POINTS}={contact_points}.'
            ' Start it, or unset the variable: then the demo starts one.'
        )


def _taken(port: int) -> Iterator[str]:
    try:
        socket.create_server(('127.0.0.1', port)).close()
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


def _try_state() -> None:
    try:
        with tempfile.TemporaryFile(dir=state_directory()):
            pass
    except OSError as error:
        raise LabError(
            f'{error.strerror}: {error.filename}. Data goes there; let'
            ' KEYSTONE_CASSANDRA_STATE_DIR name another folder.'
        ) from error


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


def _full(needs: dict[str, int]) -> Iterator[str]:
    """Yield the disks that have less room than the needs of all on them.

    :param needs: megabytes by path.
    """
    disks: dict[int, list[str]] = {}
    for path in needs:
        disks.setdefault(os.stat(_existing(path)).st_dev, []).append(path)
    for paths in disks.values():
        megabytes = sum(needs[path] for path in paths)
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
    return command.run(PROGRAM, lambda: _look(options))


def _look(options: argparse.Namespace) -> int:
    if options.stop:
        stop(options.all, options.port)
        return 0
    found = list(problems(options))
    for text in found:
        print(f'{PROGRAM}: {text}', file=sys.stderr)
    if found:
        return 1
    if options.regions or not os.environ.get(CONTACT_POINTS):
        find_jars()
    return GO_ON


if __name__ == '__main__':
    sys.exit(main())
