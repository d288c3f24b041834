# SPDX-License-Identifier: Apache-2.0
"""Plain words on a terminal: numbered steps, what was seen, progress.

Colours and a progress line that is written over only where a terminal reads
along and ``NO_COLOR`` is not set; otherwise plain lines.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lab import LabError

WIDTH = 79


class Unexpected(LabError):
    """A step did not end as it should; the message says what was seen."""


class Narrator:
    """Tells a story on standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._colours = self._terminal and not os.environ.get('NO_COLOR')
        self._steps = 0
        self._counted = ''

    def _paint(self, text: str, code: str) -> str:
        return f'\033[{code}m{text}\033[0m' if self._colours else text

    def step(self, title: str) -> None:
        """Begin the next numbered step."""
        self._steps += 1
        print('\n' + self._paint(f'{self._steps}. {title}', '1'), flush=True)

    def say(self, text: str) -> None:
        """Tell something."""
        for line in textwrap.wrap(text, WIDTH - 3):
            print(f'   {line}', flush=True)

    def expect(self, met: bool, seen: str) -> None:
        """Tell what was seen, if it is as it should be.

        :raises Unexpected: if not.
        """
        if not met:
            raise Unexpected(seen)
        first, *rest = textwrap.wrap(seen, WIDTH - 6)
        print(f'   {self._paint("ok", "32")} {first}')
        for line in rest:
            print(f'      {line}')
        sys.stdout.flush()

    def table(self, rows: Sequence[tuple[str, Any]]) -> None:
        """Show names and values."""
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f'      {name:<{width}}  {value}', flush=True)

    @contextmanager
    def task(self, text: str) -> Iterator[None]:
        """Tell what is being done, and how long it took."""
        print(f'   {text} ...', end='', flush=True)
        start = time.monotonic()
        try:
            yield
        except BaseException:
            print(flush=True)
            raise
        print(f' {time.monotonic() - start:.1f} s', flush=True)

    def count(self, left: Mapping[str, int], seconds: int) -> None:
        """Show how many rows are left in the tables, on one line.

        Where lines cannot be written over, only if the numbers changed.
        """
        text = ', '.join(f'{n} {name}' for name, n in left.items() if n)
        line = f'   {seconds:3d} s: {text or "no rows"}'
        if self._terminal:
            print(f'\r\033[K{line[: WIDTH - 1]}', end='', flush=True)
        elif text != self._counted:
            print(line, flush=True)
        self._counted = text

    def end_count(self) -> None:
        """End the line that :meth:`count` writes over."""
        if self._terminal:
            print(flush=True)

    def close(self) -> None:
        """Tell that all went well."""
        print(f'\nAll {self._steps} steps went as expected.', flush=True)
