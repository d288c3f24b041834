# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: what there is, and with which numbers it can be called.

The module of the same name has what a benchmark prepares and the operations
that it measures (``run``, ``CALLS``); :mod:`lab.benchmark.verdict` has the
targets.  This is with Python's own library alone: help, mistakes and what is
missing on the machine come before any package is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lab import LabError
from lab.cassandra_install import find_jars, find_java

PROGRAM = 'tools/benchmark'
#: Exit statuses: something did not work; all is there, go on; interrupted.
FAILED = 2
GO_ON = 10
INTERRUPTED = 130


#: An option: what argparse wants to know of it.
Option = dict[str, Any]


def number(
    default: int | tuple[int, ...], text: str, least: int = 1
) -> Option:
    """Return an option that is a number, or several."""

    def one(value: str) -> int:
        digits = value.strip().replace('_', '')
        if not digits.isdecimal() or int(digits) < least:
            raise argparse.ArgumentTypeError(
                f'{value!r} is no number of {least} or more'
            )
        return int(digits)

    def several(value: str) -> tuple[int, ...]:
        return tuple(sorted({one(part) for part in value.split(',')}))

    if isinstance(default, tuple):
        shown = ','.join(map(str, default))
        kind: Option = {'type': several, 'metavar': 'N,N'}
    else:
        shown = str(default)
        kind = {'type': one, 'metavar': 'N'}
    return {
        **kind,
        'default': default,
        'help': f'{text} (default: {shown})',
    }


def letters(every: str, text: str) -> Option:
    """Return an option that is some of these letters; all by default."""

    def some(value: str) -> str:
        if not value or not set(value) <= set(every):
            raise argparse.ArgumentTypeError(f'{value!r} is not of {every}')
        return value

    return {
        'type': some,
        'metavar': 'LETTERS',
        'default': every,
        'help': f'{text} (default: {every})',
    }


def output(text: str, metavar: str = 'FILE') -> Option:
    """Return an option that names a file to write."""
    return {'type': _writable, 'metavar': metavar, 'help': text}


def _writable(path: str) -> str:
    # Found out before the measurement, not after it.
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f'{path} cannot be written')
    return path


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    help: str
    own: dict[str, Option]  # the options that only it has
    rounds: int  # how often each series has its turn; 0 if there are none
    #: With several clients, at most: a turn then has many more operations.
    rounds_of_many: int = 2
    count: int = 200  # operations in each turn, at most
    seconds: float = 10.0  # of a turn, at most
    clients: tuple[int, ...] = (1, 8)  # numbers of client processes

    @property
    def options(self) -> dict[str, Option]:
        """All options by name, in their order."""
        turns = {
            'clients': number(
                self.clients,
                'numbers of client processes; 1 is always measured',
            ),
            'rounds': number(
                self.rounds, 'how often each system has its turn'
            ),
        }
        return {
            **self.own,
            **(turns if self.rounds else {}),
            'json': output('write the rows'),
            'plot': output('draw the figures', 'FILE.svg'),
            'page': output(
                'write the table for the documentation', 'FILE.inc'
            ),
            'check': {
                'action': 'store_true',
                'help': 'exit with 1 if a target was missed',
            },
        }


BENCHMARKS = {
    'revocation': Benchmark(
        'revocation check and revoke, beside the SQL driver on MariaDB',
        {
            'events': number(
                (10, 1_000, 10_000, 100_000, 1_000_000),
                'numbers of live revocations',
            )
        },
        rounds=5,
        # Of the SQL driver a check can take seconds.
        seconds=4.0,
    ),
    'token': Benchmark(
        'issue and validate, beside Fernet; expiry of a flood; cost of the'
        ' session for a worker',
        {
            'tokens': number(20_000, 'live tokens'),
            'flood': number(
                200_000, 'short tokens whose end is watched, 0 for none', 0
            ),
        },
        rounds=8,
        count=300,
    ),
    'identity': Benchmark(
        'users, groups and credentials, beside the SQL drivers on MariaDB',
        {
            'users': number(100_000, 'users of one domain', 1001),
            'groups': number(10_000, 'groups of one domain', 20),
        },
        rounds=6,
        rounds_of_many=6,
    ),
    'assignment': Benchmark(
        'projects, domains and grants, beside the SQL drivers on MariaDB',
        {'grants': number(200_000, 'grants, 30000 or more', 30_000)},
        rounds=6,
        rounds_of_many=6,
    ),
    'keystone': Benchmark(
        'a whole Keystone by HTTP, beside one with the SQL drivers on MariaDB'
        ' and Fernet tokens',
        {
            'users': number(10_000, 'users of the domain that is listed'),
            'events': number(
                100_000,
                'live revocations with which validation is measured a second'
                ' time, after 10',
            ),
            'statements': output(
                'write what the requests sent to the databases, one in a line'
            ),
        },
        rounds=5,
        count=200_000,  # bounded by time alone
        seconds=2.0,
        clients=(1, 16),
    ),
    'hang': Benchmark(
        'a whole Keystone by HTTP while one node of three hangs',
        {'requests': number(100, 'requests of each kind in each phase')},
        rounds=0,
    ),
    'follow': Benchmark(
        'what following the changes of another region costs a server',
        {},
        rounds=0,
    ),
    'regions': Benchmark(
        'a whole Keystone by HTTP in three regions with a slow network'
        ' between them, beside one with the SQL drivers on Galera',
        {
            'rtt': number(100, 'milliseconds of a round trip'),
            'rounds': number(3, 'how often each thing is tried'),
            'parts': letters('abcdefg', 'parts to measure'),
        },
        rounds=0,
    ),
    'juice': Benchmark(
        'the seven scenarios of the Juice study in three regions, at 0, 100'
        ' and 300 ms of round trip, beside SQL on Galera',
        {
            'rtts': number((0, 100, 300), 'milliseconds of round trips', 0),
            'iterations': number(5, 'of each scenario in each region'),
        },
        rounds=0,
    ),
    'waits': Benchmark(
        'what each kind of request waits for while all is well, nodes are'
        ' lost, and regions are cut off or lost',
        {
            'regions': number(3, 'number of regions', 2),
            'nodes': number(3, 'Cassandra nodes in each region'),
            'rtt': number(100, 'milliseconds of a round trip'),
            'rounds': number(3, 'requests of each kind in each state'),
        },
        rounds=0,
    ),
}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line: the benchmark's name and all its options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Measure the Cassandra drivers beside what Keystone has'
        ' without them, on servers that are started for it.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest='benchmark', required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(
            name, help=benchmark.help, allow_abbrev=False
        )
        for option, how in benchmark.options.items():
            command.add_argument(f'--{option}', **how)
    chosen = parser.parse_args(argv)
    if 'clients' in chosen:
        chosen.clients = tuple(sorted({1, *chosen.clients}))
    return chosen


def run(
    work: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Do some work with the command line; return the exit status.

    2 if it could not be done.  The signals that end a program do what Ctrl-C
    does.
    """
    plan = arguments(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return work(plan)
    except LabError as error:
        print(f'{PROGRAM}: {error}', file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            f'{PROGRAM}: interrupted; everything that was started is stopped',
            file=sys.stderr,
        )
        return INTERRUPTED


def look(_: argparse.Namespace) -> int:
    """Look whether a benchmark can run here."""
    find_java()
    find_jars()
    return GO_ON


if __name__ == '__main__':
    sys.exit(run(look))
