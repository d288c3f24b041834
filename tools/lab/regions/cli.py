# SPDX-License-Identifier: Apache-2.0
"""The command ``tools/regions``: a bed of regions that stays until ``down``.

With Python's own library alone, since all but ``up`` give orders to a process
that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lab import TOOLS, LabError, command, ports, processes
from lab.cassandra_install import find_jars, find_java
from lab.regions import calls, namespaces
from lab.regions.router import MOST_NODES, MOST_REGIONS

PROGRAM = 'tools/regions'
NOT_RUNNING = 3  # as init scripts answer "status"
NOT_ALLOWED = 2

_DESCRIPTION = """\
Run several regions on this machine: a network namespace for each, with
Cassandra nodes, a Keystone and a cache, and a router between them that delays
and loses packets. Nothing of the machine's own network is changed. Needs root
and /dev/net/tun.
"""
_EPILOG = f"""\
A TARGET is a region (2), or a part of it: a node (2.1), its Keystone
(2.keystone), its cache (2.cache).

example:
  {PROGRAM} up --regions 3 --rtt 100
  {PROGRAM} exec 1 -- openstack user list
  {PROGRAM} cut 3
  {PROGRAM} heal
  {PROGRAM} down
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return command.run(PROGRAM, lambda: options.run(options))
    except BrokenPipeError:
        return 1


def up(options: argparse.Namespace) -> int:
    if options.keystone and options.nodes:
        find_java()
        find_jars()
    # Before anything is begun, where the reason would come late.
    try:
        namespaces.Namespace('10.77.1.254', []).close()
    except namespaces.NotAllowed as error:
        print(f'{PROGRAM}: {error}', file=sys.stderr)
        return NOT_ALLOWED
    with ports.locked(calls.lock()):
        with contextlib.suppress(calls.NotRunning):
            calls.call('state')
            raise LabError(
                'a bed of this checkout is up already: see'
                f' {PROGRAM} status, or stop it first ({PROGRAM} down)'
            )
        _remove_dead()
        _keep(options)
    return status(options)


def _keep(options: argparse.Namespace) -> None:
    """Start the keeper and wait until all is up.

    :raises LabError: something did not start; all is stopped then.
    """
    parameters = {
        'regions': options.regions,
        'nodes': options.nodes,
        'rtt_ms': options.rtt,
        'loss': options.loss / 100,
        'keystone': options.keystone,
        'seed': options.seed,
    }
    keeper = subprocess.Popen(
        [
            *(sys.executable, '-P', '-m', 'lab.regions.keeper'),
            json.dumps(parameters),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {'PYTHONPATH': _module_path()},
    )
    assert keeper.stdout
    news: dict[str, Any] = {}
    try:
        for line in keeper.stdout:
            news = json.loads(line)
            if 'progress' in news:
                print(news['progress'], flush=True)
            if 'up' in news:
                return
    except BaseException:
        print(f'{PROGRAM}: stopping all', file=sys.stderr)
        keeper.send_signal(signal.SIGTERM)
        raise
    finally:
        if 'up' not in news:
            keeper.wait()
    raise LabError(news.get('error', 'the keeper of the bed has ended'))


def _module_path() -> str:
    return os.pathsep.join(
        filter(None, [str(TOOLS), os.environ.get('PYTHONPATH', '')])
    )


def _remove_dead() -> bool:
    """Remove what is left of a keeper that was killed a moment ago."""
    found = calls.folders()
    for folder in found:
        processes.kill_marked(str(folder))
        shutil.rmtree(folder, ignore_errors=True)
    return bool(found)


def down(options: argparse.Namespace) -> int:
    ended = calls.end_keeper()
    left = _remove_dead()
    print('All is stopped.' if ended or left else 'No bed is up.')
    return 0


def status(options: argparse.Namespace) -> int:
    try:
        state = calls.call('state')
    except calls.NotRunning as error:
        print(error)
        return NOT_RUNNING
    wan, all_regions = state['wan'], state['regions']
    print('\nRegion  Addresses                Clock    Servers')
    good = True
    for region in all_regions:
        cut = 'cut off; ' if region['number'] in wan['cut'] else ''
        parts = region['parts']
        good &= all(each == 'up' for each in parts.values())
        servers = ', '.join(f'{name} {how}' for name, how in parts.items())
        first, last = region['addresses'][0], region['addresses'][-1]
        addresses = first if first == last else f'{first} to {last}'
        print(
            f'{region["number"]} ({region["datacenter"]})'
            f' {addresses:<24} {region["clock"]:+g} s'.ljust(43)
            + f' {cut}{servers or "none"}'
        )
    print(
        f'\nWay     Round trip    Arrived                Lost'
        f' (chance: {wan["loss"]:.3g})'
    )
    for way in wan['ways']:
        print(
            f'{way["from"]} -> {way["to"]}  {way["rtt_ms"]:g} ms'.ljust(22)
            + f'{way["packets"]} packets, {way["bytes"] // 1000} kB'.ljust(23)
            + str(way['lost'])
        )
    print()
    if any(region['keystone'] for region in all_regions):
        for region in all_regions:
            print(
                f'Keystone of region {region["number"]}: {region["keystone"]}'
            )
        print(f'Log in there as admin, password {state["password"]}.')
    print(
        f'Run a program in region 1: {PROGRAM} exec 1 -- PROGRAM'
        ' (with the OS_ variables that openstack needs)'
    )
    return 0 if good else NOT_RUNNING


def execute(options: argparse.Namespace) -> int:
    variables, (descriptor,) = calls.call_with_descriptors(
        'exec', region=options.region
    )
    namespaces.enter(descriptor)
    os.close(descriptor)
    # With the variables of another cloud these would not work.
    environment = {k: v for k, v in os.environ.items() if k[:3] != 'OS_'}
    environment |= variables
    program = options.command[0]
    try:
        os.execvpe(program, options.command, environment)
    except OSError as error:
        raise LabError(f'{program}: {error.strerror}') from error


def _obeyed(name: str, *names: str) -> Callable[[argparse.Namespace], int]:
    """A command that the keeper carries out with these options."""

    def run(options: argparse.Namespace) -> int:
        calls.call(name, **{each: getattr(options, each) for each in names})
        return 0

    return run


def _on_target(name: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        region, part = options.target
        calls.call(name, region=region, part=part)
        return 0

    return run


def _number(low: float, high: float, what: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f'must be {what} from {low:g} to {high:g}, not {text!r}'
            )
        return value

    return parse


_region = command.number(1, MOST_REGIONS)


def _target(text: str) -> tuple[int, str | None]:
    region, _, part = text.partition('.')
    return _region(region), part or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def add(
        name: str, text: str, run: Callable[[argparse.Namespace], int]
    ) -> Callable[..., Any]:
        made = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False
        )
        made.set_defaults(run=run)
        return made.add_argument

    rtt = _number(0, 60_000, 'milliseconds')
    percent = _number(0, 100, 'a percentage')
    text = 'start all regions; ends with a table'
    option = add('up', text, up)
    for name, kind, default, text in (
        ('regions', command.number(2, MOST_REGIONS), 3, 'number of regions'),
        (
            'nodes',
            command.number(0, MOST_NODES),
            1,
            'Cassandra nodes in each region; 0: the network alone',
        ),
        ('rtt', rtt, 100, 'round trip between two regions in ms'),
        ('loss', percent, 0, 'percent of packets between regions to lose'),
    ):
        option(
            f'--{name}',
            type=kind,
            default=default,
            metavar='N',
            help=f'{text} (default: {default})',
        )
    option('--seed', type=int, metavar='N', help='of the packets to lose')
    option(
        '--no-keystone',
        dest='keystone',
        action='store_false',
        help='Cassandra alone, without tables',
    )
    add('down', 'stop and remove all', down)
    add('status', 'show the network and what answers', status)

    option = add('cut', 'cut a region off', _obeyed('cut', 'region'))
    option('region', type=_region, metavar='R')
    text = 'end the cut of a region, or of all'
    option = add('heal', text, _obeyed('heal', 'region'))
    option('region', type=_region, metavar='R', nargs='?')
    text = 'set the round trip between a region and the others, or all'
    option = add('slow', text, _obeyed('slow', 'rtt_ms', 'region'))
    option('rtt_ms', type=rtt, metavar='MS')
    option('region', type=_region, metavar='R', nargs='?')
    text = 'lose a share of the packets between regions'
    option = add('lossy', text, _obeyed('lossy', 'percent'))
    option('percent', type=percent, metavar='PERCENT')

    for name, text in (
        ('pause', 'freeze it: connections stay open, nothing answers'),
        ('resume', 'let it go on after pause'),
        ('kill', 'end it at once, as a crash does'),
        ('start', 'start what does not run, and wait for it'),
    ):
        option = add(name, text, _on_target(name))
        option('target', type=_target, metavar='TARGET', help='R or R.PART')

    text = "set a region's Keystone (not Cassandra) ahead, or behind"
    option = add('clock', text, _obeyed('clock', 'region', 'seconds'))
    option('region', type=_region, metavar='R')
    year = 366 * 86400
    option(
        'seconds',
        type=_number(-year, year, 'seconds'),
        metavar='SECONDS',
        help='ahead of the right time; -SECONDS for behind, 0 for right',
    )
    option = add('exec', 'run a program in a region', execute)
    option('region', type=_region, metavar='R')
    option('command', nargs='+', metavar='COMMAND', help='after --')
    return parser


if __name__ == '__main__':
    sys.exit(main())
