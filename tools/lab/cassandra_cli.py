# SPDX-License-Identifier: Apache-2.0
"""The command ``tools/cassandra``: clusters that stay until told to go."""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from lab import LabError, command, ports
from lab.cassandra import CONTACT_POINTS, HEAP_MB, Cluster, spread
from lab.cassandra_install import find_jars, find_java, say, version

PROGRAM = 'tools/cassandra'
NOT_RUNNING = 3  # as init scripts answer "status"
DEFAULT = 'default'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options, options.arguments = parser.parse_known_args(arguments)
    if options.arguments and options.run is not shell:
        parser.error(f'unknown arguments: {" ".join(options.arguments)}')
    return command.run(PROGRAM, lambda: options.run(options))


def up(options: argparse.Namespace) -> int:
    if given := os.environ.get(CONTACT_POINTS):
        cluster = Cluster.external(given)
        if not any(node.answers() for node in cluster.nodes):
            raise LabError(f'no Cassandra answers on {CONTACT_POINTS}={given}')
        say(f'Using the cluster named in {CONTACT_POINTS}; none is started.')
    else:
        with _turn(options.name):
            cluster = _start(options)
    print(f'CONTACT_POINTS={cluster.contact_points_text}', flush=True)
    return 0


def down(options: argparse.Namespace) -> int:
    if os.environ.get(CONTACT_POINTS):
        say(f'The cluster named in {CONTACT_POINTS} is not touched.')
    with _turn(options.name):
        cluster = _cluster(options.name)
        if cluster is None:
            # What a start that was killed has left.
            shutil.rmtree(_directory(options.name), ignore_errors=True)
            say(f'Cluster {options.name} is not running.')
        elif options.keep_data:
            cluster.stop()
            say(f'Cluster {options.name} is stopped; its data stays.')
        else:
            cluster.destroy()
            say(f'Cluster {options.name} is stopped and its data removed.')
    return 0


def status(options: argparse.Namespace) -> int:
    entries = os.scandir(os.path.dirname(_directory('')))
    all_names = sorted(entry.name for entry in entries if entry.is_dir())
    if given := os.environ.get(CONTACT_POINTS):
        say(f'{CONTACT_POINTS}={given} is used instead of these:')
    running = True
    for name in [options.name] if options.name else all_names or [DEFAULT]:
        cluster = _cluster(name)
        if cluster is None:
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
    given = os.environ.get(CONTACT_POINTS)
    cluster = Cluster.external(given) if given else _cluster(options.name)
    if cluster is None:
        raise LabError(
            f'cluster {options.name} is not running;'
            f' start it with {PROGRAM} up'
        )
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


def _start(options: argparse.Namespace) -> Cluster:
    """Start a cluster, or the nodes of it that do not run."""
    cluster = _cluster(options.name)
    if cluster is not None:
        _check_shape(options, cluster)
        state = (
            'running again' if cluster.start_stopped() else 'already running'
        )
        say(f'Cluster {options.name} is {state}.')
        return cluster
    datacenters = options.datacenters or 1
    nodes = options.nodes or datacenters
    spread(nodes, datacenters)  # refuses what cannot be
    find_java()
    find_jars()
    directory = _directory(options.name)
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


def _check_shape(options: argparse.Namespace, cluster: Cluster) -> None:
    shape = cluster.shape
    for option, wanted, is_now in (
        ('nodes', options.nodes, len(shape.datacenters)),
        ('datacenters', options.datacenters, len(set(shape.datacenters))),
        ('commitlog-sync', options.commitlog_sync, shape.commitlog_sync),
        ('heap-mb', options.heap_mb, shape.heap_mb),
        ('port', options.port, shape.port),
    ):
        if wanted not in (None, is_now):
            raise LabError(
                f'cluster {options.name} is there already, with --{option}'
                f' {is_now}. Remove it first ({PROGRAM} down), or make'
                f' another one (--name)'
            )


def _directory(name: str) -> str:
    root = os.path.join(ports.state_directory(), 'clusters')
    os.makedirs(root, exist_ok=True)
    return os.path.join(root, name)


def _cluster(name: str) -> Cluster | None:
    """The cluster of this name, None if there is none."""
    try:
        return Cluster.reopen(_directory(name))
    except FileNotFoundError:
        return None


def _turn(name: str) -> AbstractContextManager[None]:
    # Two commands on one cluster take turns.
    return ports.locked(f'{_directory(name)}.lock')


def _name(text: str) -> str:
    if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]{0,40}', text):
        raise argparse.ArgumentTypeError(
            'a name has letters, digits, - and _ only'
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Run a real Cassandra on loopback addresses.',
        epilog=f'{CONTACT_POINTS}=host[:port],... names an existing cluster'
        ' to use instead.',
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def add(
        run: Callable[..., int], text: str, name: str | None = DEFAULT
    ) -> Any:
        made = commands.add_parser(run.__name__, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument(
            '--name',
            type=_name,
            default=name,
            metavar='NAME',
            help=f'which cluster (default: {name or "all"})',
        )
        return made.add_argument

    option = add(up, 'start a cluster; its contact points come last')
    for name, low, high, metavar, text in (
        ('nodes', 1, 50, 'N', 'in all (default: one for each datacenter)'),
        ('datacenters', 1, 50, 'D', 'that nodes are spread over (default: 1)'),
        ('heap-mb', 256, 65536, 'MB', 'heap of each node (default: 900)'),
        ('port', 1, 65535, 'PORT', 'for CQL (default: 9042 if it is free)'),
    ):
        number = command.number(low, high)
        option(f'--{name}', type=number, metavar=metavar, help=text)
    option(
        '--commitlog-sync',
        choices=('periodic', 'batch'),
        help='sync the commit log every 10 s (default), or before each'
        ' answer to a write',
    )
    option = add(down, 'stop a cluster and remove its data')
    option('--keep-data', action='store_true', help='only stop its nodes')
    add(status, 'show the clusters and their nodes', name=None)
    add(shell, 'open cqlsh on a cluster; further arguments are given to it')
    return parser


if __name__ == '__main__':
    sys.exit(main())
