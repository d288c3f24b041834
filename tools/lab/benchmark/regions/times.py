# SPDX-License-Identifier: Apache-2.0
"""How long requests take at several round trips between regions."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from lab.benchmark.regions.sites import Answer, Person, Site, System
from lab.benchmark.regions.tally import Tally, round_trips
from lab.benchmark.report import short

#: Seconds of each request, by what it does.
Times = Mapping[str, Sequence[float]]


# -- changes in region 1

CHANGES = (
    *('create user', 'create project', 'create group', 'create role'),
    *('create application credential', 'rename user', 'delete user'),
)


def _changes(site: Site, person: Person) -> Iterator[tuple[str, Answer]]:
    made = site.create('user', password=secrets.token_urlsafe(16))
    yield 'create user', made
    for kind in 'project', 'group':
        yield f'create {kind}', site.create(kind)
    yield 'create role', site.create('role', domain_id=None)
    token = site.log_in_person(person).token
    answer = site.application_credential(person, token)
    yield 'create application credential', answer
    user = made.body['user']['id']
    yield 'rename user', site.update_user(user, name=uuid.uuid4().hex)
    yield 'delete user', site.ask('DELETE', f'/users/{user}')


# -- what clients ask for in their own region

LOG_IN = 'log-in'
FIRST = 'validation, first'
AGAIN = 'validation, again'
ISSUE = 'issue (rescope)'
REVOKE = 'revoke'
LIST = 'list users'
REQUESTS = (LOG_IN, FIRST, AGAIN, ISSUE, REVOKE, LIST)


def _requests(site: Site, person: Person) -> Iterator[tuple[str, Answer]]:
    logged_in = site.log_in_person(person)
    yield LOG_IN, logged_in
    for what in FIRST, AGAIN:
        yield what, site.validate(logged_in.token)
    issued = site.rescope(person, logged_in.token)
    yield ISSUE, issued
    yield REVOKE, site.revoke(issued.token)
    yield LIST, site.ask('GET', '/users')


_Make = Callable[[Site, Person], Iterator[tuple[str, Answer]]]


def _measure(make: _Make, site: Site, person: Person, rounds: int) -> Times:
    found: dict[str, list[float]] = {}
    # Once more, first: what a process opens or compiles once.
    for number in range(rounds + 1):
        for what, answer in make(site, person):
            seconds = answer.good().seconds
            if number:
                found.setdefault(what, []).append(seconds)
    return found


class Timed:
    """What was measured of a system, by round trip in ms."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.changes: dict[int, Times] = {}
        #: Of each region.
        self.requests: dict[int, Sequence[Times]] = {}
        (self._person,) = system.people(1)

    def measure(self, rtt_ms: int, rounds: int, changes: bool) -> None:
        """Measure at this round trip, which the bed has.

        :param changes: whether those are measured, too.
        """
        sites, person = self.system.sites, self._person
        if changes:
            self.changes[rtt_ms] = _measure(_changes, sites[0], person, rounds)
        self.requests[rtt_ms] = [
            _measure(_requests, site, person, rounds) for site in sites
        ]

    def tell(self, tally: Tally) -> None:
        """Fill the cells."""
        name = self.system.name
        at_once = self.changes[0]
        for rtt_ms, times in self.changes.items():
            for what, seconds in times.items():
                tally.keep(f'c. {what}', name, seconds, rtt_ms)
                if rtt_ms:
                    text = round_trips(seconds, at_once[what], rtt_ms)
                    tally.tell('c', f'{what}, in 1', name, text)
        for what in REQUESTS:
            for rtt_ms, regions in self.requests.items():
                middles = [
                    tally.keep(
                        f'd. {what}, region {number}',
                        name,
                        times[what],
                        rtt_ms,
                    )
                    for number, times in enumerate(regions, 1)
                ]
                text = ' / '.join(short(each * 1000) for each in middles)
                line = f'{what} at {rtt_ms} ms, in 1 / 2 / 3'
                tally.tell('d', line, name, f'{text} ms')
