# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra reconcile``: arguments, progress, what it prints."""

from __future__ import annotations

import argparse
import collections
import io
import sys
import time
from pathlib import Path

import command
import pytest
from lab import ports

from keystone_cassandra_token.cmd import progress, reconcile
from keystone_cassandra_token.tables import reconcile as engine
from keystone_cassandra_token.tables.derived import DerivedTables
from tests import statements


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    reconcile.add_command(parser)
    return parser


def test_a_dry_run_of_everything_is_the_default(parser) -> None:
    found = parser.parse_args([])
    assert not found.apply
    assert not found.tables
    assert found.rate == reconcile.RATE


def test_arguments(parser) -> None:
    found = parser.parse_args(['trust', 'credential', '--apply', '--rate=7'])
    assert found.apply
    assert found.tables == ['trust', 'credential']
    assert found.rate == 7


@pytest.mark.parametrize(
    'words',
    [
        ['token'],
        ['--rate', '-1'],
        ['--rate', 'fast'],
        ['--rate', '²'],
        ['--apply', 'trust', 'x'],
    ],
    ids=' '.join,
)
def test_wrong_arguments(parser, capsys, words) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    assert stopped.value.code == 2
    assert 'usage:' in capsys.readouterr().err


def test_help_names_all_that_can_be_reconciled(parser, monkeypatch) -> None:
    # A narrow terminal would break the longer names.
    monkeypatch.setenv('COLUMNS', '80')
    text = ' '.join(parser.format_help().split())
    assert ', '.join(sorted(reconcile.all_derived())) in text


def test_every_index_and_every_claim_is_reconciled() -> None:
    """A driver with tables that no kind names would be left out."""
    known = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith('keystone_cassandra_token.')
        for value in vars(module).values()
        if isinstance(value, DerivedTables)
    }
    assert {
        derived.base_table: derived for derived in known
    } == reconcile.all_derived()
    covered = collections.Counter(
        table
        for derived in known
        for table in (
            derived.base_table,
            *(table.name for table in derived.tables),
            *(spec.claims.table for spec in derived.claim_specs),
        )
    )
    assert set(covered.values()) == {1}
    follow = {
        table
        for table in statements.tables()
        if '_by_' in table or table.endswith('_claim')
    }
    assert follow - covered.keys() == set()


def test_no_node_answers(tmp_path: Path) -> None:
    run = command.for_nodes(tmp_path, ['127.0.0.1'], ports.free_port(), 'ks')
    done = run.here('reconcile', '--apply')
    assert done.returncode == 1
    assert done.stdout == ''
    assert '[database] cassandra_node_ips' in command.last_line(done)


def test_the_counts_stand_in_columns() -> None:
    derived = reconcile.all_derived()['group']
    text = reconcile.report(
        [derived],
        {
            'group': engine.Counts(rows=7),
            'group_by_domain': engine.Counts(
                rows=1234567, stale=1, missing=2, fixed=2, young=5
            ),
            'group_claim': engine.Counts(rows=7, stale=7, fixed=7),
        },
    )
    assert [line.split() for line in text.splitlines()] == [
        [
            *('table', 'rows', 'stale', 'missing'),
            *('fixed', 'young', 'left'),
        ],
        ['group', '7', *'-----'],
        ['group_by_domain', '1234567', *'12251'],
        ['group_claim', '7', *'70700'],
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_what_a_broken_off_run_did_not_come_to_is_not_shown() -> None:
    derived = reconcile.all_derived()['group']
    text = reconcile.report([derived], {'group_by_domain': engine.Counts()})
    assert 'group_claim' not in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def ticks(monkeypatch):
    """A clock that goes by sleeping alone."""
    now = [100.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(
        time, 'sleep', lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    return now


def test_a_bar_on_a_terminal(ticks) -> None:
    out = Terminal()
    shown = progress.Progress(out, tables=4, rate=0)
    shown.examined('a', 0)
    shown.examined('a', 1200)
    shown.examined('b' * 100, 7)
    shown.clear()
    lines = out.getvalue().split('\r\x1b[K')[1:]
    assert lines[1] == f'[{"-" * 20}] table 1 of 4, a: 1,200 rows'
    assert lines[2].startswith(f'[{"#" * 5}{"-" * 15}] table 2 of 4, bbb')
    assert all(len(line) < 80 for line in lines)
    assert lines[-1] == ''


def test_a_line_now_and_then_elsewhere(ticks) -> None:
    out = io.StringIO()
    shown = progress.Progress(out, tables=1, rate=100)
    for _ in range(25):
        shown.examined('a', 100)
    shown.say('told')
    lines = out.getvalue().splitlines()
    assert lines[0] == 'table 1 of 1, a: 1,100 rows'
    assert lines[-1] == 'told'
    assert len(lines) == 3


@pytest.mark.parametrize(('rate', 'seconds'), [(10, 30), (0, 0)])
def test_the_rate_is_kept_on_average(ticks, rate, seconds) -> None:
    shown = progress.Progress(io.StringIO(), tables=2, rate=rate)
    for table, rows in (('a', 100), ('a', 100), ('b', 100)):
        shown.examined(table, rows)
    assert ticks[0] - 100 == seconds
