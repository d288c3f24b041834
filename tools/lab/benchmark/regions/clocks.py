# SPDX-License-Identifier: Apache-2.0
"""The clock of region 1's Keystone is wrong, and a password is changed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from lab.benchmark.regions.sites import Person, Site, System
from lab.benchmark.regions.tally import Tally
from lab.regions.bed import Bed
from lab.waiting import WaitedInVain, until

#: Seconds.
SHIFTS = (5, -5)
BOUND = 15
_PART = 'g'


def measure(bed: Bed, systems: Sequence[System], tally: Tally) -> None:
    """Set the clock ahead and behind, and right again."""
    for shift in SHIFTS:
        people = {each.name: each.people(2) for each in systems}
        _set(bed, systems, shift)
        try:
            for system in systems:
                first, second, _ = system.sites
                # Who issues, and who revokes.
                for role, issuer, revoker, person in zip(
                    ('issuer', 'revoker'),
                    (first, second),
                    (second, first),
                    people[system.name],
                    strict=True,
                ):
                    line = f'clock of the {role} {shift:+d} s, new password'
                    _change(system, issuer, revoker, person, tally, line)
        finally:
            _set(bed, systems, 0)


def _set(bed: Bed, systems: Sequence[System], seconds: float) -> None:
    """Set the clock of region 1's Keystones.

    Timestamps of writes do not go back in a process that runs.
    """
    region = bed.region(1)
    back = seconds < region.clock
    stopped = systems if back else ()
    for system in stopped:
        system.first.hang_up()
        region.kill(system.keystone)
    region.clock = seconds
    for system in stopped:
        region.start(system.keystone)


def _change(
    system: System,
    issuer: Site,
    revoker: Site,
    person: Person,
    tally: Tally,
    line: str,
) -> None:
    token = issuer.log_in_person(person).token
    until(lambda: revoker.validate(token).ok, 'the token to be there')
    new = person._replace(password=secrets.token_urlsafe(16))
    revoker.update_user(person.user, password=new.password).good()
    since = time.monotonic()

    def accepted() -> bool:
        """Whether all accept a token that is issued now."""
        issued = issuer.log_in_person(new).token
        return bool(issued) and all(
            site.validate(issued).ok for site in system.sites
        )

    text = _after(accepted, 'a new token to be accepted', since)
    tally.tell(_PART, f'{line}: new tokens accepted', system.name, text)
    good = []
    for number, site in enumerate(system.sites, 1):
        try:
            until(
                lambda: site.validate(token).refused,  # noqa: B023
                'a refusal',
                BOUND / len(system.sites),
            )
        except WaitedInVain:
            continue
        good.append(number)
    text = 'everywhere' if len(good) == len(system.sites) else 'nowhere'
    if 0 < len(good) < len(system.sites):
        text = f'in {", ".join(map(str, good))} only'
    tally.tell(_PART, f'{line}: token of before refused', system.name, text)


def _after(condition: Callable[[], bool], what: str, since: float) -> str:
    try:
        until(condition, what, BOUND)
    except WaitedInVain:
        return f'not in {BOUND} s'
    return f'after {time.monotonic() - since:.2f} s'
