# SPDX-License-Identifier: Apache-2.0
"""Region 3 is cut off: what each region answers, and what is there after."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lab.benchmark.regions.sites import (
    NO_ANSWER,
    Answer,
    Person,
    Site,
    System,
)
from lab.benchmark.regions.tally import Tally, brief, share
from lab.regions.bed import Bed
from lab.waiting import WaitedInVain, until

#: Seconds after the cut in which region 3 must have what others changed.
BOUND = 30
OPERATIONS = ('log-in', 'validation', 'revoke', 'disable user')
_PART = 'e'


class _Case(NamedTuple):
    """Somebody about whom one region is asked once."""

    person: Person
    token: str  # issued in that region, and not yet asked for
    other: str  # another one, of that kind, too


def _case(site: Site, person: Person) -> _Case:
    first, second = (site.log_in_person(person).token for _ in range(2))
    return _Case(person, first, second)


_ASKED: dict[str, Callable[[Site, _Case], Answer]] = {
    'log-in': lambda site, case: site.log_in_person(case.person),
    'validation': lambda site, case: site.validate(case.token),
    'revoke': lambda site, case: site.revoke(case.other),
    'disable user': lambda site, case: site.update_user(
        case.person.user, enabled=False
    ),
}


class Answers(NamedTuple):
    """What a region answered while region 3 was cut off."""

    creations: list[Answer]
    operations: dict[str, list[Answer]]


def _ask(site: Site, cases: list[_Case]) -> Answers:
    """Ask a region; what needs others first, and twice."""
    creations = [site.create('user') for _ in range(2)]
    return Answers(
        creations,
        {
            what: [ask(site, case) for case in cases]
            for what, ask in _ASKED.items()
        },
    )


def measure(bed: Bed, system: System, tally: Tally, rounds: int) -> None:
    """Cut region 3 off, ask all regions, heal it; fill the cells."""
    people = iter(system.people(3 * rounds + 1))
    cases = [
        [_case(site, next(people)) for _ in range(rounds)]
        for site in system.sites
    ]
    witness = next(people)
    token = system.third.log_in_person(witness).token
    for _ in range(2):
        system.third.validate(token).good()
    with ThreadPoolExecutor(len(system.sites)) as threads:
        bed.cut(3)
        try:
            found = list(threads.map(_ask, system.sites, cases))
            ended = system.first.update_user(witness.user, enabled=False)
        finally:
            bed.heal()
    healed = time.monotonic()
    for number, answers in enumerate(found, 1):
        _tell(tally, system.name, number, answers)
    for what, ask in (
        ('new log-in', lambda: system.third.log_in_person(witness)),
        ('remembered token', lambda: system.third.validate(token)),
    ):
        text = 'was not disabled in 1'
        if ended.ok:
            text = _until_refused(ask, healed)
        line = f'user disabled in 1 meanwhile: {what} refused in 3, after heal'
        tally.tell(_PART, line, system.name, text)


def _until_refused(ask: Callable[[], Answer], since: float) -> str:
    last: list[Answer] = []

    def refused() -> bool:
        last[:] = [ask()]
        return last[0].refused

    left = max(since + BOUND - time.monotonic(), 0)
    try:
        until(refused, 'a refusal in region 3', left)
    except WaitedInVain:
        how = 'accepted' if last[0].ok else f'status {last[0].status}'
        return f'over {BOUND} s: {how}'
    return f'{time.monotonic() - since:.2f} s'


def _tell(tally: Tally, system: str, number: int, answers: Answers) -> None:
    where = f'3 cut off, region {number}:'
    for what, given in answers.operations.items():
        good = [each.seconds for each in given if each.ok]
        text = share(len(good), len(given))
        if good:
            middle = tally.keep(f'e. {where} {what}', system, good, 0)
            text += f', {brief(middle)}'
        if len(good) < len(given):
            text += f'; {failure(given)}'
        tally.tell(_PART, f'{where} {what}', system, text)
    text = ', then '.join(map(outcome, answers.creations))
    tally.tell(_PART, f'{where} create user', system, text)


def outcome(answer: Answer) -> str:
    """Return a status, and after how long."""
    status = str(answer.status) if answer.status else 'no answer'
    return f'{status} in {brief(answer.seconds)}'


def failure(answers: list[Answer]) -> str:
    """Return what became of the others, and how long they took."""
    bad = [each for each in answers if not each.ok]
    kinds = sorted({each.status for each in bad})
    words = ', '.join(
        'no answer' if each == NO_ANSWER else str(each) for each in kinds
    )
    middle = statistics.median(each.seconds for each in bad)
    return f'{words} in {brief(middle)}'
