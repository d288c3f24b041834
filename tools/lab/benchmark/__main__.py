# SPDX-License-Identifier: Apache-2.0
"""The command line of ``tools/benchmark``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from lab import LabError
from lab.benchmark import (
    assignment,
    identity,
    keystone,
    plot,
    report,
    revocation,
    token,
    verdict,
)
from lab.benchmark.report import Found
from lab.benchmark.stage import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; return the exit status.

    0 if it ran, whatever it measured; 1 with ``--check`` if a target was
    missed; 2 if it could not run.
    """
    chosen = _parser().parse_args(arguments)
    # As Ctrl-C does, so that whatever was started is stopped.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        _check_outputs(chosen)
        began = time.monotonic()
        found = BENCHMARKS[chosen.benchmark](chosen)
        took = f'{(time.monotonic() - began) / 60:.1f} min'
        found.context['Run'] = f'{time.strftime("%Y-%m-%d")}, {took}'
        print(report.text(*found), end='')
        _write(chosen, found)
    except LabError as error:
        print(f'tools/benchmark: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say('interrupted; everything that was started is stopped')
        return 130
    return 1 if chosen.check and verdict.missed(found.verdicts) else 0


def _revocation(chosen: argparse.Namespace) -> Found:
    plan = revocation.Plan(
        sizes=chosen.events, clients=_with_one(chosen.clients)
    )
    if chosen.rounds:
        plan = dataclasses.replace(plan, rounds=chosen.rounds)
    measured, context = revocation.run(plan)
    verdicts = verdict.revocation(report.rows('revocation', measured))
    return Found(measured, context, list(verdicts))


def _token(chosen: argparse.Namespace) -> Found:
    plan = token.Plan(
        tokens=chosen.tokens,
        flood=chosen.flood,
        clients=_with_one(chosen.clients),
    )
    if chosen.rounds:
        plan = dataclasses.replace(plan, rounds=chosen.rounds)
    measured, context, verdicts = token.run_all(plan)
    rows = report.rows('token', measured)
    return Found(
        measured,
        context,
        [verdict.validation(rows, plan.tokens), *verdicts],
    )


def _identity(chosen: argparse.Namespace) -> Found:
    plan = identity.Plan(
        users=chosen.users,
        groups=chosen.groups,
        clients=_with_one(chosen.clients),
    )
    if chosen.rounds:
        plan = dataclasses.replace(plan, rounds=chosen.rounds)
    measured, context = identity.run(plan)
    verdicts = verdict.identity(report.rows('identity', measured))
    return Found(measured, context, list(verdicts))


def _assignment(chosen: argparse.Namespace) -> Found:
    plan = assignment.Plan(
        grants=chosen.grants, clients=_with_one(chosen.clients)
    )
    if chosen.rounds:
        plan = dataclasses.replace(plan, rounds=chosen.rounds)
    measured, context = assignment.run(plan)
    verdicts = verdict.assignment(report.rows('assignment', measured))
    return Found(measured, context, list(verdicts))


def _keystone(chosen: argparse.Namespace) -> Found:
    plan = keystone.Plan(
        users=chosen.users,
        events=chosen.events,
        clients=_with_one(chosen.clients),
    )
    if chosen.rounds:
        plan = dataclasses.replace(plan, rounds=chosen.rounds)
    found = keystone.run(plan, chosen.statements)
    rows = report.rows('keystone', found.measured)
    return found._replace(verdicts=[*verdict.keystone(rows), *found.verdicts])


BENCHMARKS = {
    'revocation': _revocation,
    'token': _token,
    'identity': _identity,
    'assignment': _assignment,
    'keystone': _keystone,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tools/benchmark',
        description='Measure the Cassandra drivers beside what Keystone has'
        ' without them, on servers that are started for it.',
    )
    commands = parser.add_subparsers(dest='benchmark', required=True)
    command = commands.add_parser(
        'revocation',
        help='revocation check and revoke, beside the SQL driver on MariaDB',
    )
    command.add_argument(
        '--events',
        type=_numbers,
        default=revocation.SIZES,
        metavar='N,N',
        help='numbers of live revocations (default:'
        f' {",".join(map(str, revocation.SIZES))})',
    )
    _add_shared(command)
    command = commands.add_parser(
        'token',
        help='issue and validate, beside Fernet; expiry of a flood; cost of'
        ' the session for a worker',
    )
    command.add_argument(
        '--tokens',
        type=_number,
        default=token.Plan.tokens,
        metavar='N',
        help='live tokens (default: %(default)s)',
    )
    command.add_argument(
        '--flood',
        type=_number_or_none,
        default=token.Plan.flood,
        metavar='N',
        help='short tokens whose end is watched, 0 for none (default:'
        ' %(default)s)',
    )
    _add_shared(command)
    command = commands.add_parser(
        'identity',
        help='users, groups and credentials, beside the SQL drivers on'
        ' MariaDB',
    )
    for name, default in (
        ('users', identity.Plan.users),
        ('groups', identity.Plan.groups),
    ):
        command.add_argument(
            f'--{name}',
            type=_number,
            default=default,
            metavar='N',
            help=f'{name} of one domain (default: %(default)s)',
        )
    _add_shared(command)
    command = commands.add_parser(
        'assignment',
        help='projects, domains and grants, beside the SQL drivers on MariaDB',
    )
    command.add_argument(
        '--grants',
        type=_number,
        default=assignment.Plan.grants,
        metavar='N',
        help='grants, 30000 or more (default: %(default)s)',
    )
    _add_shared(command)
    command = commands.add_parser(
        'keystone',
        help='a whole Keystone by HTTP, beside one with the SQL drivers on'
        ' MariaDB and Fernet tokens',
    )
    command.add_argument(
        '--users',
        type=_number,
        default=keystone.Plan.users,
        metavar='N',
        help='users of the domain that is listed (default: %(default)s)',
    )
    command.add_argument(
        '--events',
        type=_number,
        default=keystone.Plan.events,
        metavar='N',
        help='live revocations with which validation is measured a second'
        f' time, after {keystone.FEW} (default: %(default)s)',
    )
    command.add_argument(
        '--statements',
        metavar='FILE',
        help='write what the requests sent to the databases, one in a line',
    )
    _add_shared(command, keystone.Plan.clients)
    return parser


def _add_shared(
    command: argparse.ArgumentParser, clients: tuple[int, ...] = (1, 8)
) -> None:
    command.add_argument(
        '--clients',
        type=_numbers,
        default=clients,
        metavar='N,N',
        help='numbers of client processes; 1 is always measured (default:'
        f' {",".join(map(str, clients))})',
    )
    command.add_argument(
        '--rounds',
        type=_number,
        metavar='N',
        help='how often each system has its turn',
    )
    command.add_argument('--json', metavar='FILE', help='write the rows')
    command.add_argument('--plot', metavar='FILE.svg', help='draw the figures')
    command.add_argument(
        '--page',
        metavar='FILE.inc',
        help='write the table for the documentation',
    )
    command.add_argument(
        '--check',
        action='store_true',
        help='exit with 1 if a target was missed',
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({_number(part) for part in text.split(',')}))


def _number(text: str) -> int:
    number = _number_or_none(text)
    if not number:
        raise argparse.ArgumentTypeError('must be 1 or more')
    return number


def _number_or_none(text: str) -> int:
    digits = text.strip().replace('_', '')
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is no number')
    return int(digits)


def _with_one(clients: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({1, *clients}))


def _check_outputs(chosen: argparse.Namespace) -> None:
    """Find out before the measurement what would fail after it.

    :raises LabError: if a file cannot be written.
    """
    for path in filter(
        None,
        (
            chosen.json,
            chosen.plot,
            chosen.page,
            getattr(chosen, 'statements', None),
        ),
    ):
        folder = os.path.dirname(os.path.abspath(path))
        if not os.access(folder, os.W_OK) or os.path.isdir(path):
            raise LabError(f'{path} cannot be written')
    if chosen.plot and not importlib.util.find_spec('matplotlib'):
        raise LabError('--plot needs matplotlib (the extra "lab")')


def _write(chosen: argparse.Namespace, found: Found) -> None:
    rows = report.rows(chosen.benchmark, found.measured)
    if chosen.json:
        report.write_json(chosen.json, rows)
        report.write_context(report.context_path(chosen.json), *found)
    if chosen.page:
        report.write_page(chosen.page, report.page(*found))
    if chosen.plot:
        plot.draw(chosen.benchmark, rows, chosen.plot)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == '__main__':
    sys.exit(main())
