# SPDX-License-Identifier: Apache-2.0
"""Plain words on a terminal: numbered steps, what was seen, progress.

What is under way is shown on a line that is written over where a terminal
reads along that is wide enough and ``NO_COLOR`` is not set; otherwise in
plain lines.  ASCII only: nobody knows what a terminal can show.
"""

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lab import LabError, waiting

WIDTH = 79
#: Below this a table is hard to read, and there is no room for progress.
NARROW = 60

#: Tells how far a task is.
Progress = Callable[[str], None]
#: Names, each with a word on it.
Rows = Sequence[tuple[str, Any]]

_T = TypeVar('_T')


class Unexpected(LabError):
    """A step did not end as it should; the message says what was seen."""


class Narrator:
    """Tells a story on standard output."""

    def __init__(self) -> None:
        columns = shutil.get_terminal_size().columns
        self._width = max(20, min(WIDTH, columns))
        self._console = Console(
            width=self._width, highlight=False, markup=False, emoji=False
        )
        self._live = (
            self._console.is_terminal
            and not self._console.is_dumb_terminal
            and not os.environ.get('NO_COLOR')
            and self._width >= NARROW
        )
        self._steps: list[tuple[str, str]] = []

    def step(self, title: str, shows: str) -> None:
        """Begin the next numbered step.

        :param shows: what is seen in it, in a few words for the end.
        """
        self._steps.append((title, shows))
        self._console.print(f'\n{len(self._steps)}. {title}', style='bold')

    def say(self, text: str, indent: int = 3) -> None:
        """Tell something."""
        for line in textwrap.wrap(text, self._width - indent):
            self._print(' ' * indent + line)

    def draw(self, picture: str) -> None:
        """Show a picture as it is."""
        self._print('\n' + textwrap.indent(picture, '      '))

    def values(self, rows: Rows) -> None:
        """Show names and values."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._print(f'      {name:<{width}}  {value}')

    def expect(self, met: bool, seen: str) -> None:
        """Tell what was seen, if it is as it should be.

        :raises Unexpected: if not.
        """
        if not met:
            raise Unexpected(seen)
        self._console.print('   ok', style='green', end=' ')
        self._print('\n      '.join(textwrap.wrap(seen, self._width - 6)))

    @contextmanager
    def task(self, text: str) -> Iterator[Progress]:
        """Tell what is being done, and how long it took."""
        start = time.monotonic()
        if self._live:
            with self._console.status(f'{text} ...', spinner='line') as status:
                yield lambda news: status.update(f'{text}: {news}')
            self._print(f'   {text} ... {time.monotonic() - start:.1f} s')
            return
        # The rest of the line, or what comes after lines of news.
        rest = ' '

        def tell(news: str) -> None:
            nonlocal rest
            if rest == ' ':
                self._print('')
            rest = '   ... '
            self.say(news, 6)

        self._print(f'   {text} ...', end='')
        try:
            yield tell
        except BaseException:
            self._print('')
            raise
        self._print(f'{rest}{time.monotonic() - start:.1f} s')

    def until(self, condition: Callable[[], _T], what: str) -> _T:
        """Tell what is waited for, wait, and return what came.

        :raises lab.waiting.WaitedInVain: if it never comes.
        """
        with self.task(f'waiting for {what}'):
            return waiting.until(condition, what)

    def close(self, left: Rows, advice: Rows) -> None:
        """Tell that all went well: a table of the steps and what remains.

        :param left: what is left running.
        :param advice: what to try next.
        """
        self._console.print(
            f'\nAll {len(self._steps)} steps went as expected.', style='bold'
        )
        for heading, rows in (
            ('What was shown', self._steps),
            ('What is left running', left),
            ('What to try next', advice),
        ):
            self._console.print(f'\n{heading}', style='bold')
            self._table(rows)

    def _table(self, rows: Rows) -> None:
        if self._width < NARROW:
            for name, text in rows:
                self.say(f'{name}: {text}')
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(max_width=34)
        for row in rows:
            table.add_row(*row)
        with self._console.capture() as capture:
            self._console.print(Padding(table, (0, 0, 0, 3)))
        for line in capture.get().splitlines():
            self._print(line.rstrip())

    def _print(self, text: str, end: str = '\n') -> None:
        """Print text as it is, however long its lines are."""
        self._console.print(text, end=end, soft_wrap=True)
        sys.stdout.flush()
