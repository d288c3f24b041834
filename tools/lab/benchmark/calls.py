# SPDX-License-Identifier: Apache-2.0
"""The requests to a whole Keystone, as one client process sends them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.client
import itertools
import json
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab import LabError
from lab.benchmark import identity
from lab.benchmark.measure import Series
from lab.waiting import until

#: Seconds; with many revocations SQL needs some for each request.
_PATIENCE = 300


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody who logs in."""

    name: str
    password: str
    token: str  # of the project
    trust: str  # id of a trust in this person
    credential: tuple[str, str]  # id and secret, of an application


@dataclasses.dataclass(frozen=True)
class Site:
    """A Keystone that has been filled."""

    port: int
    workers: tuple[str, ...]  # process ids, as the answers name them
    admin: str  # token of an administrator
    project: str  # name of that of all people
    people: tuple[Person, ...]
    users: int  # in the domain that is listed


@dataclasses.dataclass(frozen=True)
class Request:
    """A request, and the status of the answer that it must have."""

    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: Any = None
    status: int = 200


class Caller:
    """An open connection to one worker.

    :param number: of the client; the workers have equally many of them.
    """

    def __init__(self, site: Site, number: int) -> None:
        wanted = site.workers[number % len(site.workers)]
        with contextlib.ExitStack() as others:

            def connected() -> bool:
                # Without a proxy, whatever the environment names.
                self._connection = http.client.HTTPConnection(
                    '127.0.0.1', site.port, timeout=_PATIENCE
                )
                answer = self.send(Request('GET', '/v3'))
                if answer.headers['X-Worker'] == wanted:
                    return True
                # Open for now: the other worker is no better a choice then.
                others.callback(self._connection.close)
                return False

            until(connected, f'a connection to worker {wanted}')

    def send(self, request: Request) -> http.client.HTTPResponse:
        """Send a request and read the answer.

        :raises LabError: if it is not the expected one.
        """
        body, headers = None, {**request.headers}
        if request.body is not None:
            body = json.dumps(request.body)
            headers['Content-Type'] = 'application/json'
        self._connection.request(request.method, request.path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != request.status:
            raise LabError(
                f'{request.method} {request.path}: {answer.status}'
                f' {content[:500].decode(errors="replace")}'
            )
        return answer

    def close(self) -> None:
        self._connection.close()


class Callers:
    """The Keystones, as one client sees them; opened at first use.

    :param plan: the benchmark's name and options.
    :param sites: by system.
    :param number: of the client.
    """

    def __init__(
        self, plan: argparse.Namespace, sites: Mapping[str, Site], number: int
    ) -> None:
        self.plan = plan
        self.sites = sites
        self.number = number
        self.caller = functools.cache(
            lambda system: Caller(sites[system], number)
        )


# -- the operations


def _log_in(method: str, content: Any, **scope: Any) -> Request:
    auth: dict[str, Any] = {'identity': {'methods': [method], method: content}}
    if scope:
        auth['scope'] = scope
    return Request('POST', '/v3/auth/tokens', body={'auth': auth}, status=201)


def _by_password(person: Person, **scope: Any) -> Request:
    user = {
        'name': person.name,
        'domain': {'id': 'default'},
        'password': person.password,
    }
    return _log_in('password', {'user': user}, **scope)


def password(site: Site, person: Person) -> Request:
    """A log-in to the project."""
    project = {'name': site.project, 'domain': {'id': 'default'}}
    return _by_password(person, project=project)


def trust(site: Site, person: Person) -> Request:
    """A log-in by which one acts for somebody else."""
    return _by_password(person, **{'OS-TRUST:trust': {'id': person.trust}})


def credential(site: Site, person: Person) -> Request:
    """A log-in of a program."""
    content = dict(zip(('id', 'secret'), person.credential, strict=True))
    return _log_in('application_credential', content)


def validation(site: Site, person: Person) -> Request:
    """What each service asks about the token that it was sent."""
    headers = {'X-Auth-Token': site.admin, 'X-Subject-Token': person.token}
    return Request('GET', '/v3/auth/tokens', headers)


def catalog(site: Site, person: Person) -> Request:
    """The catalog of a token's project."""
    return Request('GET', '/v3/auth/catalog', {'X-Auth-Token': person.token})


def creation(site: Site, person: Person) -> Request:
    """The creation of a user, with a password."""
    user = {
        'name': uuid.uuid4().hex,
        'domain_id': 'default',
        'password': uuid.uuid4().hex,
    }
    headers = {'X-Auth-Token': site.admin}
    return Request('POST', '/v3/users', headers, {'user': user}, status=201)


def page(site: Site, person: Person) -> Request:
    """A page of a domain's users, from anywhere."""
    marker = identity.user_id(random.randrange(site.users))
    return Request(
        'GET',
        f'/v3/users?domain_id={identity.DOMAIN}&limit={identity.PAGE}'
        f'&marker={marker}',
        {'X-Auth-Token': site.admin},
    )


LOGIN = 'password log-in'
VALIDATION = 'token validation'
OPERATIONS: dict[str, Callable[[Site, Person], Request]] = {
    LOGIN: password,
    VALIDATION: validation,
    'trust-scoped token': trust,
    'application credential log-in': credential,
    'catalog': catalog,
    f'list {identity.PAGE} users': page,
    'create user': creation,
}


def requests(site: Site, operation: str) -> Iterator[Request]:
    """Yield requests of an operation without end, of one after the other."""
    for person in itertools.cycle(site.people):
        yield OPERATIONS[operation](site, person)


def operation(callers: Callers, series: Series) -> Callable[[], object]:
    """Return what sends the requests of a series, one after the other."""
    site = callers.sites[series.system]
    caller = callers.caller(series.system)
    # Not all clients begin with the same person.
    first = callers.number % len(site.people)
    coming = itertools.islice(requests(site, series.operation), first, None)
    return lambda: caller.send(next(coming))
