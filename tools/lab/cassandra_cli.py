# SPDX-License-Identifier: Apache-2.0
"""The command ``tools/cassandra``: clusters that stay until told to go."""

import argparse
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lab import LabError, ports
from lab.cassandra import CONTACT_POINTS, HEAP_MB, Cluster, spread
from lab.cassandra_install import find_jars, find_java, say, version

PROGRAM = 'tools/cassandra'
NOT_RUNNING = 3  # as init scripts answer "status"
DEFAULT = 'default'


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.run is not shell:
        parser.error(f'unknown arguments: {" ".join(others)}')
    options.arguments = others
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return int(options.run(options))
    except LabError as error:
        say(f'{PROGRAM}: {error}')
        return 1
    except KeyboardInterrupt:
        say(f'{PROGRAM}: interrupted')
        return 130


def up(options: argparse.Namespace) -> int:
    if given := os.environ.get(CONTACT_POINTS):
        return _existing(given)
    directory = _directory(options.name)
    with _turn(options.name):
        try:
            cluster = Cluster.reopen(directory)
        except FileNotFoundError:
            cluster = _start(options, directory)
        else:
            _check_shape(options, cluster)
            if cluster.start_stopped():
                say(f'Cluster {options.name} is running again.')
            else:
                say(f'Cluster {options.name} is already running.')
    print(f'CONTACT_POINTS={cluster.contact_points_text}', flush=True)
    return 0


def down(options: argparse.Namespace) -> int:
    if os.environ.get(CONTACT_POINTS):
        say(f'The cluster named in {CONTACT_POINTS} is not touched.')
    directory = _directory(options.name)
    with _turn(options.name):
        try:
            cluster = Cluster.reopen(directory)
        except FileNotFoundError:
            # What a start that was killed has left.
            shutil.rmtree(directory, ignore_errors=True)
            say(f'Cluster {options.name} is not running.')
            return 0
        if options.keep_data:
            cluster.stop()
            say(f'Cluster {options.name} is stopped; its data stays.')
        else:
            cluster.destroy()
            say(f'Cluster {options.name} is stopped and its data removed.')
    return 0


def status(options: argparse.Namespace) -> int:
    names = [options.name] if options.name else (_names() or [DEFAULT])
    if given := os.environ.get(CONTACT_POINTS):
        say(f'{CONTACT_POINTS}={given} is used instead of these:')
    running = True
    for name in names:
        try:
            cluster = Cluster.reopen(_directory(name))
        except FileNotFoundError:
            print(f'{name}: not running')
            running = False
            continue
        print(f'{name}: Cassandra {version()}, {cluster.directory}')
        for node in cluster.nodes:
            process = node.process
            if process is None:
                text = 'stopped'
            elif node.answers():
                text = f'up, process {process}'
            else:
                text = f'process {process} does not answer'
            running &= text.startswith('up')
            print(
                f'  node {node.number}  {node.address}:{node.port}'
                f'  {node.datacenter}  {text}'
            )
        print(f'  CONTACT_POINTS={cluster.contact_points_text}')
    return 0 if running else NOT_RUNNING


def shell(options: argparse.Namespace) -> int:
    if given := os.environ.get(CONTACT_POINTS):
        cluster = Cluster.external(given)
    else:
        try:
            cluster = Cluster.reopen(_directory(options.name))
        except FileNotFoundError:
            raise LabError(
                f'cluster {options.name} is not running;'
                f' start it with {PROGRAM} up'
            ) from None
    answering = [node for node in cluster.nodes if node.answers()]
    if not answering:
        raise LabError('no node of the cluster answers')
    cqlsh = shutil.which('cqlsh')
    if cqlsh is None:
        raise LabError('cqlsh is not installed (pip install cqlsh)')
    node = answering[0]
    # The driver tries event loops whose libraries tell of their end.
    os.environ['PYTHONWARNINGS'] = 'ignore'
    os.execv(cqlsh, [cqlsh, *options.arguments, node.address, str(node.port)])


def _start(options: argparse.Namespace, directory: str) -> Cluster:
    nodes, datacenters = _size(options)
    spread(nodes, datacenters)  # refuses what cannot be
    find_java()
    find_jars()
    # What an interrupted start has left.
    shutil.rmtree(directory, ignore_errors=True)
    say(
        f'Starting Cassandra {version()}: nodes: {nodes},'
        f' datacenters: {datacenters}.'
    )
    cluster = Cluster.start(
        nodes,
        datacenters,
        directory,
        commitlog_sync=options.commitlog_sync or 'periodic',
        heap_mb=options.heap_mb or HEAP_MB,
        quick=False,  # it may stay long
        port=options.port,
        name=options.name,
        progress=say,
    )
    cluster.detach()
    return cluster


def _size(options: argparse.Namespace) -> tuple[int, int]:
    datacenters = options.datacenters or 1
    return options.nodes or datacenters, datacenters


def _check_shape(options: argparse.Namespace, cluster: Cluster) -> None:
    shape = cluster.shape
    asked = {
        '--nodes': (options.nodes, len(shape.datacenters)),
        '--datacenters': (options.datacenters, len(set(shape.datacenters))),
        '--commitlog-sync': (options.commitlog_sync, shape.commitlog_sync),
        '--heap-mb': (options.heap_mb, shape.heap_mb),
        '--port': (options.port, shape.port),
    }
    for option, (wanted, is_now) in asked.items():
        if wanted is not None and wanted != is_now:
            raise LabError(
                f'cluster {options.name} is there already, with {option}'
                f' {is_now}. Remove it first ({PROGRAM} down), or make'
                f' another one (--name)'
            )


def _existing(contact_points: str) -> int:
    cluster = Cluster.external(contact_points)
    silent = [node.address for node in cluster.nodes if not node.answers()]
    if len(silent) == len(cluster.nodes):
        raise LabError(
            f'no Cassandra answers on {CONTACT_POINTS}={contact_points}'
        )
    say(f'Using the cluster named in {CONTACT_POINTS}; none is started.')
    print(f'CONTACT_POINTS={cluster.contact_points_text}', flush=True)
    return 0


def _root() -> str:
    path = os.path.join(ports.state_directory(), 'clusters')
    os.makedirs(path, exist_ok=True)
    return path


def _directory(name: str) -> str:
    return os.path.join(_root(), name)


def _names() -> list[str]:
    return sorted(
        entry.name for entry in os.scandir(_root()) if entry.is_dir()
    )


@contextmanager
def _turn(name: str) -> Iterator[None]:
    # Two commands on one cluster take turns.
    with ports.locked(f'{_directory(name)}.lock'):
        yield


def _terminated(*_: Any) -> None:
    # As Ctrl-C, so that what was begun is cleaned up.
    raise KeyboardInterrupt


def _name(text: str) -> str:
    if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]{0,40}', text):
        raise argparse.ArgumentTypeError(
            'a name has letters, digits, - and _ only'
        )
    return text


def _number(low: int, high: int) -> Any:
    def number(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f'must be a number from {low} to {high}, not {text!r}'
            )
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Run a real Cassandra on loopback addresses.',
        epilog=f'{CONTACT_POINTS}=host[:port],... names an existing cluster'
        ' to use instead.',
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def command(function: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            function.__name__, help=text, description=text
        )
        made.set_defaults(run=function)
        return made

    name = {'metavar': 'NAME', 'type': _name}
    text = f'which cluster (default: {DEFAULT})'

    it = command(up, 'start a cluster; its contact points come last')
    it.add_argument('--name', default=DEFAULT, help=text, **name)
    for option, low, high, metavar, about in (
        ('nodes', 1, 50, 'N', 'in all (default: one for each datacenter)'),
        ('datacenters', 1, 50, 'D', 'that nodes are spread over (default: 1)'),
        ('heap-mb', 256, 65536, 'MB', 'heap of each node (default: 900)'),
        ('port', 1, 65535, 'PORT', 'for CQL (default: 9042 if it is free)'),
    ):
        it.add_argument(
            f'--{option}', type=_number(low, high), metavar=metavar, help=about
        )
    it.add_argument(
        '--commitlog-sync',
        choices=('periodic', 'batch'),
        help='sync the commit log every 10 s (default), or before each'
        ' answer to a write',
    )
    it = command(down, 'stop a cluster and remove its data')
    it.add_argument('--name', default=DEFAULT, help=text, **name)
    it.add_argument(
        '--keep-data', action='store_true', help='only stop its nodes'
    )

    it = command(status, 'show the clusters and their nodes')
    it.add_argument('--name', help='which cluster (default: all)', **name)

    it = command(
        shell, 'open cqlsh on a cluster; further arguments are given to it'
    )
    it.add_argument('--name', default=DEFAULT, help=text, **name)
    return parser


if __name__ == '__main__':
    sys.exit(main())
