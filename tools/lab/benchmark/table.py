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
from collections.abc import Sequence

from lab import LabError
from lab.cassandra_install import find_jars, find_java

PROGRAM = 'tools/benchmark'
#: Exit statuses: something did not work; and all is there, go on.
FAILED = 2
GO_ON = 10


@dataclasses.dataclass(frozen=True)
class Number:
    """An option, a number or several: its default, and what it is."""

    default: int | tuple[int, ...]
    help: str
    least: int = 1

    def add(self, command: argparse.ArgumentParser, name: str) -> None:
        """Add it to a command."""
        several = isinstance(self.default, tuple)
        shown = ','.join(map(str, self.default)) if several else self.default
        command.add_argument(
            f'--{name}',
            type=self._several if several else self._one,
            default=self.default,
            metavar='N,N' if several else 'N',
            help=f'{self.help} (default: {shown})',
        )

    def _several(self, text: str) -> tuple[int, ...]:
        return tuple(sorted({self._one(part) for part in text.split(',')}))

    def _one(self, text: str) -> int:
        digits = text.strip().replace('_', '')
        if not digits.isdecimal() or int(digits) < self.least:
            raise argparse.ArgumentTypeError(
                f'{text!r} is no number of {self.least} or more'
            )
        return int(digits)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    :ivar numbers: its own options.
    :ivar rounds: how often each series has its turn; 0 if there are none.
    :ivar rounds_of_many: the same with several clients, at most: a turn then
        has many more operations.
    :ivar count: operations in each turn, at most.
    :ivar seconds: of a turn, at most.
    :ivar clients: numbers of client processes.
    """

    help: str
    numbers: dict[str, Number]
    rounds: int
    rounds_of_many: int = 2
    count: int = 200
    seconds: float = 10.0
    clients: tuple[int, ...] = (1, 8)


BENCHMARKS = {
    'revocation': Benchmark(
        'revocation check and revoke, beside the SQL driver on MariaDB',
        {
            'events': Number(
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
            'tokens': Number(20_000, 'live tokens'),
            'flood': Number(
                200_000, 'short tokens whose end is watched, 0 for none', 0
            ),
        },
        rounds=8,
        count=300,
    ),
    'identity': Benchmark(
        'users, groups and credentials, beside the SQL drivers on MariaDB',
        {
            'users': Number(100_000, 'users of one domain', 1001),
            'groups': Number(10_000, 'groups of one domain', 20),
        },
        rounds=6,
        rounds_of_many=6,
    ),
    'assignment': Benchmark(
        'projects, domains and grants, beside the SQL drivers on MariaDB',
        {'grants': Number(200_000, 'grants, 30000 or more', 30_000)},
        rounds=6,
        rounds_of_many=6,
    ),
    'keystone': Benchmark(
        'a whole Keystone by HTTP, beside one with the SQL drivers on MariaDB'
        ' and Fernet tokens',
        {
            'users': Number(10_000, 'users of the domain that is listed'),
            'events': Number(
                100_000,
                'live revocations with which validation is measured a second'
                ' time, after 10',
            ),
        },
        rounds=5,
        count=10**9,
        seconds=2.0,
        clients=(1, 16),
    ),
    'hang': Benchmark(
        'a whole Keystone by HTTP while one node of three hangs',
        {'requests': Number(100, 'requests of each kind in each phase')},
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
        numbers = dict(benchmark.numbers)
        if benchmark.rounds:
            numbers['clients'] = Number(
                benchmark.clients,
                'numbers of client processes; 1 is always measured',
            )
            numbers['rounds'] = Number(
                benchmark.rounds, 'how often each system has its turn'
            )
        for option, number in numbers.items():
            number.add(command, option)
        files = {
            'json': ('FILE', 'write the rows'),
            'plot': ('FILE.svg', 'draw the figures'),
            'page': ('FILE.inc', 'write the table for the documentation'),
        }
        if name == 'keystone':
            files['statements'] = (
                'FILE',
                'write what the requests sent to the databases, one in a line',
            )
        for option, (metavar, text) in files.items():
            command.add_argument(
                f'--{option}', type=_output, metavar=metavar, help=text
            )
        command.add_argument(
            '--check',
            action='store_true',
            help='exit with 1 if a target was missed',
        )
    chosen = parser.parse_args(argv)
    if BENCHMARKS[chosen.benchmark].rounds:
        chosen.clients = tuple(sorted({1, *chosen.clients}))
    return chosen


def _output(text: str) -> str:
    # Found out before the measurement, not after it.
    folder = os.path.dirname(os.path.abspath(text))
    if not os.access(folder, os.W_OK) or os.path.isdir(text):
        raise argparse.ArgumentTypeError(f'{text} cannot be written')
    return text


def interrupt_at_signals() -> None:
    """Let the signals that end a program do what Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Look whether a benchmark can run here; return the exit status."""
    arguments(argv)
    interrupt_at_signals()
    try:
        find_java()
        find_jars()
    except LabError as error:
        print(f'{PROGRAM}: {error}', file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return GO_ON


if __name__ == '__main__':
    sys.exit(main())
