# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra reconcile``: fixes index tables and unique names."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import drivers
from keystone_cassandra_token.cmd.progress import Progress
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.schema import check
from keystone_cassandra_token.tables import reconcile as engine
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.reconcile import Counts

#: Rows a second that are looked at; each costs a read or a few.
RATE = 500

_HEAD = (
    *('table', 'rows', 'stale', 'missing'),
    *('fixed', 'young', 'left'),
)
_DESCRIPTION = """\
Finds index rows and claims of names that fit no entity, and entities that
lack theirs; with --apply fixes them. Entities themselves are never deleted.
Runs beside the servers, in one region (datacenter), with their role; all
regions must be reachable.
"""
_EPILOG = """\
Columns of what is printed, by table:
  rows     looked at
  stale    index rows without an entity, or of another value; claims whose
           owner is gone, or has another name
  missing  entities without their index row, or their claim
  fixed    of these two
  young    left alone: less than ten minutes old when the run began
  left     still wrong

Exit code: 0 nothing is left to fix, 1 something is or the run was interrupted.
"""


class _Tables:
    """The base tables; the drivers are imported at the first use."""

    def __iter__(self) -> Iterator[str]:
        return iter(all_derived())

    def __contains__(self, name: object) -> bool:
        # Python 3.11 also asks whether naming none of them is a choice.
        return name == [] or name in all_derived()


def add_command(parser: Any) -> None:
    """Add the arguments to the parser of ``reconcile``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        'tables',
        nargs='*',
        choices=_Tables(),
        metavar='TABLE',
        help='entities to look at, with their indexes and claims:'
        ' %(choices)s; default: all',
    )
    parser.add_argument(
        '--apply',
        action='store_true',
        help='fix what is found; without it nothing is written',
    )
    parser.add_argument(
        '--rate',
        type=_rate,
        default=RATE,
        metavar='N',
        help='look at no more than N rows a second on average (default'
        f' {RATE}; 0: no limit)',
    )
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='name what is found on standard error: its table, what is wrong,'
        ' the id of the entity',
    )
    parser.set_defaults(run=run)


def _rate(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f'{text!r} is no number of rows')
    return int(text)


def all_derived() -> dict[str, DerivedTables]:
    """Return the declarations of derived tables, by base table."""
    # Not at import: a broken driver must not keep other commands from work.
    for found in pkgutil.walk_packages(
        drivers.__path__, drivers.__name__ + '.'
    ):
        importlib.import_module(found.name)
    package = drivers.__name__.rpartition('.')[0] + '.'
    known = (
        value
        for name, module in [*sys.modules.items()]
        if name.startswith(package)
        for value in vars(module).values()
        if isinstance(value, DerivedTables)
    )
    return dict(sorted((derived.base_table, derived) for derived in {*known}))


def run(conf: cfg.ConfigOpts) -> bool:
    """Reconcile the tables asked for; return whether anything is left."""
    asked = conf.command
    wanted = [
        derived
        for table, derived in all_derived().items()
        if not asked.tables or table in asked.tables
    ]
    progress = Progress(
        sys.stderr,
        tables=sum(len(_tables(derived)) for derived in wanted),
        rate=asked.rate,
    )
    store = Store(conf, verify=check)
    work = engine.Reconciler(
        store,
        apply=asked.apply,
        examined=progress.examined,
        problem=progress.say,
        **({'noticed': progress.say} if asked.verbose else {}),
    )
    finished = False
    try:
        for derived in wanted:
            work.run(derived)
        finished = True
    finally:
        # Also what was done before an interruption.
        progress.clear()
        store.close()
        if work.counts:
            print(report(wanted, work.counts))
        if work.counts and not finished:
            print(f'Interrupted in {progress.table}: the rest is unchecked.')
    left = sum(counts.left for counts in work.counts.values())
    print(_verdict(left, asked.apply))
    return left > 0


def _verdict(left: int, applied: bool) -> str:
    if not left:
        return 'Nothing is left to fix.'
    if applied:
        return f'{left} could not be fixed; see above, or run it again.'
    return (
        f'{left} to fix. Nothing was changed: that takes'
        ' `keystone-cassandra reconcile --apply`.'
    )


def _tables(derived: DerivedTables) -> list[tuple[str, Iterable[str]]]:
    """Return all tables of a declaration, with what can be wrong in each."""
    return [
        (derived.base_table, ()),
        *((table.name, ('stale', 'missing')) for table in derived.tables),
        *(
            (spec.claims.table, ('stale', 'missing'))
            for spec in derived.claim_specs
        ),
    ]


def report(
    looked_at: Iterable[DerivedTables], found: Mapping[str, Counts]
) -> str:
    """Return the counts as a table of text."""
    lines = [list(_HEAD)]
    for derived in looked_at:
        for table, wrong in _tables(derived):
            if table in found:
                lines.append([table, *_cells(found[table], wrong)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        line[0].ljust(widths[0])
        + ''.join(
            f'  {cell:>{width}}'
            for cell, width in zip(line[1:], widths[1:], strict=True)
        )
        for line in lines
    )


def _cells(counts: Counts, wrong: Iterable[str]) -> Iterator[str]:
    shown = {'rows', *wrong, *(('fixed', 'young', 'left') if wrong else ())}
    for name in _HEAD[1:]:
        yield str(getattr(counts, name)) if name in shown else '-'
