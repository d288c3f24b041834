# SPDX-License-Identifier: Apache-2.0
"""What ends in region 1 while region 3 remembers it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from lab.benchmark.regions.sites import Answer, Person, Site, System
from lab.benchmark.regions.tally import Tally, span
from lab.waiting import WaitedInVain, until

#: Seconds in which region 3 is asked again and again.
BOUND = 8
_PART = 'a'


def _password_changed(site: Site, person: Person, token: str) -> Answer:
    return site.update_user(person.user, password=secrets.token_urlsafe(16))


def _project_disabled(site: Site, person: Person, token: str) -> Answer:
    body = {'project': {'enabled': False}}
    return site.ask('PATCH', f'/projects/{person.project}', body)


def _role_removed(site: Site, person: Person, token: str) -> Answer:
    path = f'/projects/{person.project}/users/{person.user}/roles'
    return site.ask('DELETE', f'{path}/{site.role}')


def _validated(site: Site, person: Person, token: str) -> Answer:
    return site.validate(token)


def _logged_in(site: Site, person: Person, token: str) -> Answer:
    return site.log_in_person(person)


class _End(NamedTuple):
    act: Callable[[Site, Person, str], Answer]
    ask: Callable[[Site, Person, str], Answer] = _validated


ENDS = {
    'token revoked in 1, refused in 3': _End(
        lambda site, _, token: site.revoke(token)
    ),
    'user disabled in 1, refused in 3': _End(
        lambda site, person, _: site.update_user(person.user, enabled=False)
    ),
    'password changed in 1, refused in 3': _End(_password_changed),
    'role removed in 1, validated without in 3': _End(_role_removed),
    'role removed in 1, log-in without in 3': _End(_role_removed, _logged_in),
    'project disabled in 1, refused in 3': _End(_project_disabled),
}


class Left(NamedTuple):
    """Something that had ended, and was accepted to the end of the bound."""

    system: str
    what: str
    ended: float  # on the monotonic clock
    accepted: Callable[[], bool]


def measure(system: System, tally: Tally, rounds: int) -> list[Left]:
    """Measure each end; return what region 3 accepts for longer."""
    left = []
    people = iter(system.people(len(ENDS) * rounds))
    for what, end in ENDS.items():
        times = []
        for _ in range(rounds):
            person = next(people)
            ended, accepted = _end(system, end, person)
            try:
                until(lambda: not accepted(), what, BOUND)  # noqa: B023
            except WaitedInVain:
                left.append(Left(system.name, what, ended, accepted))
                # It will not be another one's case either.
                break
            times.append(time.monotonic() - ended)
        if times:
            tally.keep(f'a. {what}', system.name, times, 0)
        text = span(times) if len(times) == rounds else f'over {BOUND} s'
        tally.tell(_PART, what, system.name, text)
    return left


def _end(
    system: System, end: _End, person: Person
) -> tuple[float, Callable[[], bool]]:
    """End something; return when it was acknowledged, and how to ask."""
    token = system.first.log_in_person(person).token
    there = system.third

    def accepted() -> bool:
        return end.ask(there, person, token).has_role()

    until(accepted, 'region 3 to accept it')
    accepted()  # it remembers now
    end.act(system.first, person, token).good()
    return time.monotonic(), accepted


def ask_again(left: list[Left], tally: Tally) -> None:
    """Ask once more for what was accepted for longer."""
    for each in left:
        accepted = each.accepted()
        passed = time.monotonic() - each.ended
        word = 'still accepted' if accepted else 'refused'
        tally.tell(
            _PART,
            each.what,
            each.system,
            f'over {BOUND} s; after {passed:.0f} s {word}',
        )
