# SPDX-License-Identifier: Apache-2.0
"""Which promises a history breaks: ``python -m tests.regions.check FILE``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.regions import checks_of_names, checks_of_tokens, checks_of_users
from tests.regions.history import History
from tests.regions.timeline import Timeline
from tests.regions.violation import Violation

__all__ = ['CHECKS', 'Violation', 'violations']

Check = Callable[[History, Timeline], Iterator[Violation]]

CHECKS: tuple[Check, ...] = (
    checks_of_tokens.ended_is_refused,
    checks_of_tokens.issued_is_accepted,
    checks_of_users.passwords,
    checks_of_users.last_password,
    checks_of_users.enabled,
    checks_of_users.roles,
    checks_of_names.held_once,
    checks_of_names.found,
    checks_of_names.shown,
    checks_of_names.deleted_is_deleted,
    checks_of_names.agreed,
    checks_of_names.uses,
)


def unexpected(history: History, _: Timeline) -> Iterator[Violation]:
    """Nothing is answered with what says that the server is wrong.

    503 is what is promised where nobody knows, or where it cannot be done.
    """
    for each in history.operations:
        if each.status and each.status >= 500 and each.status != 503:
            yield Violation('an answer that says that it is a bug', [each])


def violations(history: History) -> list[Violation]:
    """Return what a history breaks."""
    time = Timeline(history)
    return [
        found
        for each in (*CHECKS, unexpected)
        for found in each(history, time)
    ]


def main(paths: list[str]) -> int:
    broken = False
    for path in paths:
        with Path(path).open() as file:
            history = History.load(file)
        found = violations(history)
        print(
            f'{path}: seed {history.run.get("seed")},'
            f' {len(history.operations)} operations,'
            f' {len(history.faults)} faults, {len(found)} violations'
        )
        for each in found:
            print(each)
        broken |= bool(found)
    return int(broken)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
