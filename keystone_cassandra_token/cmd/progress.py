# SPDX-License-Identifier: Apache-2.0
"""How far a long command is, and how fast it may go."""

from __future__ import annotations

import time
from typing import TextIO

#: Seconds between two lines where no terminal shows a bar.
_EVERY = 10.0
_WIDTH = 20


class Progress:
    """Shows which table is read and how far, and slows down to a rate.

    On a terminal one line with a bar of tables, else a line now and then.

    :param out: where to show it.
    :param tables: how many tables there are.
    :param rate: rows a second on average, 0 for no limit.
    :ivar table: which one is read.
    """

    def __init__(self, out: TextIO, *, tables: int, rate: int) -> None:
        self._out = out
        self._tables = tables
        self._rate = rate
        self._started = time.monotonic()
        self._shown = self._started
        self.table = ''
        self._done = -1  # tables
        self._rows = 0  # of this table
        self._all = 0  # rows of all tables

    def examined(self, table: str, rows: int) -> None:
        """Note that more rows were read; wait if that was too fast."""
        if table != self.table:
            self.table = table
            self._done += 1
            self._rows = 0
        self._rows += rows
        self._all += rows
        self._show()
        if self._rate:
            early = self._started + self._all / self._rate - time.monotonic()
            time.sleep(max(0.0, early))

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.clear()
        print(line, file=self._out, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._out.isatty():
            self._out.write('\r\x1b[K')
            self._out.flush()

    def _show(self) -> None:
        where = (
            f'table {self._done + 1} of {self._tables}, {self.table}:'
            f' {self._rows:,} rows'
        )
        if self._out.isatty():
            full = _WIDTH * self._done // self._tables
            bar = '#' * full + '-' * (_WIDTH - full)
            # Cut, since a line that wraps cannot be written over.
            self._out.write(f'\r\x1b[K[{bar}] {where}'[:79])
            self._out.flush()
            return
        now = time.monotonic()
        if now - self._shown >= _EVERY:
            self._shown = now
            print(where, file=self._out, flush=True)
