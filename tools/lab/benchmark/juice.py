# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark juice``: the scenarios of the Juice study.

Inria's Juice (2018) asked how Keystone does over a wide area network, on
Galera and on other databases, by seven of Rally's scenarios.  Here they run in
three regions, one region after the other, on Cassandra and on Galera.  What a
scenario has made is deleted after it, and is not measured.
"""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lab import LabError
from lab.benchmark.measure import Measurements, Sample, Series
from lab.benchmark.regions import servers
from lab.benchmark.regions.sites import (
    CASSANDRA,
    GALERA,
    ROLE,
    Answer,
    Person,
    Site,
    System,
)
from lab.benchmark.report import Table, short
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call
from lab.regions.bed import Bed

#: Seconds of ``claim_wait``: four times the longest round trip is 1.2 s, and
#: a name takes two of them.
CLAIM_WAIT = 3

CALLS: dict[str, Call] = {}


class Failed(LabError):
    """A request of a scenario was answered with an error."""


class Visit:
    """One iteration of a scenario: what it asks, and what it makes.

    :ivar seconds: of all its requests together.
    """

    def __init__(self, site: Site, person: Person) -> None:
        self.site = site
        self.person = person
        self.seconds = 0.0
        self._made: list[str] = []

    def _took(self, answer: Answer) -> Answer:
        self.seconds += answer.seconds
        if not answer.ok:
            raise Failed(f'status {answer.status}')
        return answer

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request; return what the answer is about."""
        found = self._took(self.site.ask(method, path, body)).body
        return next(iter(found.values())) if found else None

    def list(self, kind: str) -> Any:
        """Ask for all of a kind."""
        found = self._took(self.site.ask('GET', f'/{kind}s')).body
        return found[f'{kind}s']

    def create(self, kind: str, **values: Any) -> str:
        """Make something with a name of its own; return its id."""
        answer = self._took(self.site.create(kind, **values))
        made = str(answer.body[kind]['id'])
        self._made.append(f'/{kind}s/{made}')
        return made

    def create_user(self, **values: Any) -> str:
        return self.create(
            'user', password=secrets.token_urlsafe(16), **values
        )

    def create_role(self) -> str:
        return self.create('role', domain_id=None)

    def update_user(self, user: str, **values: Any) -> None:
        self._took(self.site.update_user(user, **values))

    def delete_user(self, user: str) -> None:
        self.ask('DELETE', f'/users/{user}')
        self._made.remove(f'/users/{user}')

    def grant(self, role: str, user: str, project: str) -> None:
        path = f'/projects/{project}/users/{user}/roles'
        self.ask('PUT', f'{path}/{role}')

    def authenticate(self) -> str:
        return self._took(self.site.log_in_person(self.person)).token

    def validate(self, token: str) -> None:
        self._took(self.site.validate(token))

    def clean_up(self) -> None:
        """Delete what was made."""
        for path in reversed(self._made):
            self.site.call('DELETE', path)


# -- the scenarios, as Rally has them


def _authenticate_and_validate(visit: Visit) -> None:
    visit.validate(visit.authenticate())


def _create_user_change_password(visit: Visit) -> None:
    user = visit.create_user()
    visit.update_user(user, password=secrets.token_urlsafe(16))


def _create_and_list_roles(visit: Visit) -> None:
    person = visit.person
    visit.grant(visit.create_role(), person.user, person.project)
    visit.ask('GET', f'/projects/{person.project}/users/{person.user}/roles')


def _create_and_list_projects(visit: Visit) -> None:
    visit.create('project')
    visit.list('project')


def _get_entities(visit: Visit) -> None:
    project = visit.create('project')
    user = visit.create_user(default_project_id=project)
    known = {each['name']: each['id'] for each in visit.list('role')}
    visit.grant(known[ROLE], user, project)
    role = visit.create_role()
    visit.ask('GET', f'/projects/{project}')
    visit.ask('GET', f'/users/{user}')
    visit.ask('GET', f'/roles/{role}')
    services = {each['name']: each['id'] for each in visit.list('service')}
    visit.ask('GET', f'/services/{services["keystone"]}')


def _create_disable_delete_user(visit: Visit) -> None:
    user = visit.create_user(enabled=True)
    visit.update_user(user, enabled=False)
    visit.delete_user(user)


def _create_and_list_users(visit: Visit) -> None:
    visit.create_user()
    visit.list('user')


#: By what they do, in the order of the study.
SCENARIOS: Mapping[str, Callable[[Visit], None]] = {
    'authenticate, validate': _authenticate_and_validate,
    'create user, change password': _create_user_change_password,
    'create, grant and list roles': _create_and_list_roles,
    'create and list projects': _create_and_list_projects,
    'create and get entities': _get_entities,
    'create, disable, delete user': _create_disable_delete_user,
    'create and list users': _create_and_list_users,
}


# -- measuring


class Times(NamedTuple):
    """Seconds of a scenario at one round trip, of each region.

    :ivar errors: iterations that were answered with an error.
    """

    regions: Sequence[Sequence[float]]
    errors: int = 0

    @property
    def all(self) -> list[float]:
        return [each for region in self.regions for each in region]


#: By scenario, round trip in ms, and system.
Found = Mapping[tuple[str, int], Mapping[str, Times]]


def run(under_way: Run) -> None:
    """Start all; measure."""
    plan, found = under_way.plan, under_way.found
    settings = {'cassandra': {'claim_wait': CLAIM_WAIT}}
    started = servers.start(under_way, 0, settings)
    names = [system.name for system in started.systems]
    people = {each.name: each.people(1)[0] for each in started.systems}
    for system in started.systems:
        say(f'warming up ({system.name})')
        for scenario in SCENARIOS:
            _measure(started.bed, system, people[system.name], scenario, 0, 1)
    times: dict[tuple[str, int], dict[str, Times]] = {}
    for ms in plan.rtts:
        say(f'measuring at {ms} ms')
        for scenario in SCENARIOS:
            times[scenario, ms] = {
                system.name: _measure(
                    started.bed,
                    system,
                    people[system.name],
                    scenario,
                    ms,
                    plan.iterations,
                )
                for system in started.systems
            }
    keep(found.measured, times)
    found.shown = False
    found.drawn = 'Median of each scenario at each round trip'
    found.tables.append(table(times, names))
    how = f'{plan.iterations} iterations of each scenario in each region'
    found.context.update(started.describe(how))
    found.context['Keystone'] += f'; on Cassandra claim_wait {CLAIM_WAIT} s'


def _measure(
    bed: Bed,
    system: System,
    person: Person,
    scenario: str,
    rtt_ms: int,
    iterations: int,
) -> Times:
    """Run a scenario in each region, one after the other."""
    visits: list[Visit] = []
    regions: list[list[float]] = []
    errors = 0
    bed.slow(rtt_ms)
    for site in system.sites:
        regions.append([])
        for _ in range(iterations):
            visits.append(Visit(site, person))
            try:
                SCENARIOS[scenario](visits[-1])
            except Failed as error:
                say(f'{scenario}, {site.region}, {system.name}: {error}')
                errors += 1
            else:
                regions[-1].append(visits[-1].seconds)
    bed.slow(0)
    for visit in visits:
        visit.clean_up()
    return Times(regions, errors)


# -- telling


def keep(measured: Measurements, found: Found) -> None:
    """Keep times for the rows: of all regions, and of each."""

    def add(system: str, what: str, ms: int, times: Sequence[float]) -> None:
        if times:
            sample = Sample(tuple(times), 0.0, 0.0, sum(times))
            measured.add(Series(system, what, ms), [sample])

    for (scenario, ms), systems in found.items():
        for system, times in systems.items():
            add(system, scenario, ms, times.all)
            for number, region in enumerate(times.regions, 1):
                add(system, f'{scenario}, region {number}', ms, region)


def table(found: Found, systems: Sequence[str]) -> Table:
    """Return medians of each region, maxima, ratios and errors."""
    titles = {CASSANDRA: 'Cassandra drivers', GALERA: 'SQL on Galera'}
    headings = ['scenario', 'round trip']
    for system in systems:
        headings += [f'{titles[system]}: 1 / 2 / 3', 'max']
    return Table(
        "Juice's scenarios, ms",
        [*headings, 'ratio of medians', 'errors'],
        [
            (
                scenario,
                f'{ms} ms',
                *_cells(times[system] for system in systems),
                ratio(times),
                ' / '.join(str(times[system].errors) for system in systems),
            )
            for (scenario, ms), times in found.items()
        ],
    )


def _cells(found: Iterable[Times]) -> Iterator[str]:
    for times in found:
        yield ' / '.join(
            _ms(statistics.median(each)) if each else '-'
            for each in times.regions
        )
        yield _ms(max(times.all)) if times.all else '-'


def _ms(seconds: float) -> str:
    return short(seconds * 1000)


def ratio(found: Mapping[str, Times]) -> str:
    """Return the median on Cassandra as a multiple of that on Galera."""
    ours, theirs = (
        times.all if (times := found.get(system)) else []
        for system in (CASSANDRA, GALERA)
    )
    if not ours or not theirs:
        return '-'
    return f'{statistics.median(ours) / statistics.median(theirs):.2f}'
