# SPDX-License-Identifier: Apache-2.0
"""A Keystone in each region, and what is asked of it from there."""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import secrets
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lab import LabError
from lab.client import ADMIN_SCOPE
from lab.people import soon
from lab.regions.bed import Bed
from lab.regions.galera import MARIADB
from lab.regions.galera import Node as MariaDB
from lab.regions.parts import MEMORY, Server
from lab.regions.region import KEYSTONE, Region
from lab.server import Keystone, Settings, merge
from lab.shifted_clock import VARIABLE
from lab.waiting import until

#: Of the part of a region that is the Keystone with the SQL drivers.
SQL = 'sql'
CASSANDRA, GALERA = 'cassandra', 'galera'
#: Seconds.
REMEMBERED = 600
#: Of both systems.
SETTINGS: Settings = {
    **MEMORY,
    'cache': {
        **MEMORY['cache'],
        'enabled': True,
        'expiration_time': REMEMBERED,
    },
    'identity': {'password_hash_rounds': 4},
}
_SQL_PORT = 5001
#: Seconds: of a request, and after which a server may close a connection.
_TIMEOUT, _IDLE = 60, 30
#: Of a person on the project: one that is taken away, and one that stays.
ROLE, OTHER_ROLE = 'member', 'reader'
#: Status of what got no answer.
NO_ANSWER = 0


class Answer(NamedTuple):
    """What became of a request."""

    status: int  # of HTTP, or NO_ANSWER
    seconds: float
    body: Any = None
    token: str = ''  # the one that was issued

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether it is a verdict, not an outage."""
        return 400 <= self.status < 500

    def good(self) -> Answer:
        """Return it.

        :raises LabError: it is an error.
        """
        if not self.ok:
            raise LabError(f'status {self.status}: {self.body!r}')
        return self

    def has_role(self) -> bool:
        """Whether it tells of a token with the role."""
        return self.ok and ROLE in {
            each['name'] for each in self.body['token'].get('roles', ())
        }


class _Connection(http.client.HTTPConnection):
    """One that is opened in the network of a region."""

    def __init__(self, region: Region, port: int) -> None:
        super().__init__(region.address, port, timeout=_TIMEOUT)
        self._region = region

    def connect(self) -> None:
        with self._region.entered():
            super().connect()


class Caller:
    """A connection to a Keystone from its own region; a thread's."""

    def __init__(self, region: Region, port: int) -> None:
        self._connection = _Connection(region, port)
        self._used = 0.0

    def send(
        self,
        method: str,
        path: str,
        token: str = '',
        subject: str = '',
        body: Any = None,
    ) -> Answer:
        """Send a request; an error is an answer, too.

        :param path: below ``/v3``.
        :param subject: the token that the request is about.
        """
        headers = {'X-Auth-Token': token} if token else {}
        if subject:
            headers['X-Subject-Token'] = subject
        text = None
        if body is not None:
            text = json.dumps(body)
            headers['Content-Type'] = 'application/json'
        begin = time.monotonic()
        if begin - self._used > _IDLE:
            self._connection.close()
        try:
            self._connection.request(method, f'/v3{path}', text, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return Answer(NO_ANSWER, time.monotonic() - begin)
        self._used = time.monotonic()
        found = Answer(answer.status, self._used - begin)
        if not found.ok or not content:
            return found._replace(body=content)
        issued = answer.headers.get('X-Subject-Token') or ''
        return found._replace(body=json.loads(content), token=issued)

    def close(self) -> None:
        """End the connection; the next request opens another one."""
        self._connection.close()


class Person(NamedTuple):
    """A user with two roles on a project of its own."""

    name: str
    password: str
    user: str
    project: str


class Site:
    """A Keystone of a region, and its administrator.

    The token of the administrator was issued there.
    """

    def __init__(
        self, region: Region, keystone: Keystone, password: str
    ) -> None:
        self.region = region
        self.keystone = keystone
        self._numbers = itertools.count()
        self._caller = self.caller()
        self.send = self._caller.send
        self.hang_up = self._caller.close
        scope = {
            'project': {
                'name': ADMIN_SCOPE['project_name'],
                'domain': {'id': ADMIN_SCOPE['project_domain_id']},
            }
        }
        self.admin = self.log_in(('admin', password), scope).token
        if not self.admin:
            raise LabError(f'nobody can log in at {keystone.url}')

    def caller(self) -> Caller:
        """Return a further connection."""
        return Caller(self.region, self.keystone.port)

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request of the administrator."""
        return self.send(method, path, self.admin, body=body)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that must succeed, and return what it made.

        :raises LabError: it failed.
        """
        made = self.ask(method, path, body).good().body
        return next(iter(made.values())) if made else None

    def create(self, kind: str, **values: Any) -> Answer:
        """Make something with a name of its own."""
        given = {'name': uuid.uuid4().hex, 'domain_id': 'default', **values}
        return self.ask('POST', f'/{kind}s', {kind: given})

    def agrees(self) -> bool:
        """Whether the region agrees with others on a new name now."""
        return self.create('user').ok

    def update_user(self, user: str, **values: Any) -> Answer:
        return self.ask('PATCH', f'/users/{user}', {'user': values})

    def validate(self, token: str) -> Answer:
        return self.send('GET', '/auth/tokens', self.admin, token)

    def revoke(self, token: str) -> Answer:
        return self.send('DELETE', '/auth/tokens', self.admin, token)

    def log_in(
        self, who: tuple[str, str], scope: Any = None, caller: Any = None
    ) -> Answer:
        """Log in by name.

        :param who: name and password.
        :param scope: of the token; default: none.
        :param caller: default: that of the site.
        """
        body = log_in(who, scope)
        send = caller.send if caller else self.send
        answer: Answer = send('POST', '/auth/tokens', body=body)
        return answer

    def log_in_person(self, person: Person, caller: Any = None) -> Answer:
        """Log in for the person's project."""
        return self.log_in(
            (person.name, person.password),
            {'project': {'id': person.project}},
            caller,
        )

    def rescope(self, person: Person, token: str) -> Answer:
        """Issue a token for one."""
        identity = {'methods': ['token'], 'token': {'id': token}}
        scope = {'project': {'id': person.project}}
        body = {'auth': {'identity': identity, 'scope': scope}}
        return self.send('POST', '/auth/tokens', body=body)

    def application_credential(self, person: Person, token: str) -> Answer:
        """Make one of the person's own."""
        return self.send(
            'POST',
            f'/users/{person.user}/application_credentials',
            token,
            body={'application_credential': {'name': uuid.uuid4().hex}},
        )

    def log_in_by(self, credential: Any) -> Answer:
        """Log in with what :meth:`application_credential` has made."""
        method = 'application_credential'
        given = {key: credential[key] for key in ('id', 'secret')}
        identity = {'methods': [method], method: given}
        return self.send(
            'POST', '/auth/tokens', body={'auth': {'identity': identity}}
        )

    def trust(
        self, trustor: Person, token: str, trustee: Person, **values: Any
    ) -> Answer:
        """Let one trust another."""
        trust = {
            'trustor_user_id': trustor.user,
            'trustee_user_id': trustee.user,
            'project_id': trustor.project,
            'impersonation': True,
            'roles': [{'name': ROLE}],
            # SQL takes no two of the same people that end in one second.
            'expires_at': soon(3600 + next(self._numbers)),
            **values,
        }
        return self.send(
            'POST', '/OS-TRUST/trusts', token, body={'trust': trust}
        )

    @functools.cached_property
    def _roles(self) -> dict[str, str]:
        return {
            each['name']: each['id'] for each in self.call('GET', '/roles')
        }

    @property
    def role(self) -> str:
        """Id of the role that is taken away."""
        return self._roles[ROLE]

    def person(self) -> Person:
        """Make somebody with a project."""
        name, password = uuid.uuid4().hex, secrets.token_urlsafe(16)
        given = {'name': name, 'domain_id': 'default'}
        project = self.call('POST', '/projects', {'project': given})['id']
        given['password'] = password
        user = self.call('POST', '/users', {'user': given})['id']
        for role in ROLE, OTHER_ROLE:
            path = f'/projects/{project}/users/{user}/roles'
            self.call('PUT', f'{path}/{self._roles[role]}')
        return Person(name, password, user, project)


def log_in(who: tuple[str, str], scope: Any = None) -> Any:
    """Return the body of a log-in with a name and a password."""
    user = {
        'name': who[0],
        'domain': {'id': 'default'},
        'password': who[1],
    }
    auth = {'identity': {'methods': ['password'], 'password': {'user': user}}}
    return {'auth': {**auth, **({'scope': scope} if scope else {})}}


class System(NamedTuple):
    """Keystone in three regions.

    :ivar rtt_ms: milliseconds of a round trip that the bed usually has.
    :ivar node: name of the part of a region that is its database.
    :ivar keystone: of the part that is its Keystone.
    """

    name: str
    bed: Bed
    rtt_ms: int
    sites: Sequence[Site]
    node: str
    keystone: str

    @property
    def first(self) -> Site:
        return self.sites[0]

    @property
    def third(self) -> Site:
        return self.sites[2]

    def people(self, count: int) -> list[Person]:
        """Make people in region 1, and wait until they can log in in all.

        Without a delay between regions: they are not what is measured.
        """
        self.bed.slow(0)
        made = [self.first.person() for _ in range(count)]
        for site in self.sites:
            for person in made:
                until(
                    functools.partial(_can_log_in, site, person),
                    f'a log-in at {site.keystone.url}',
                )
        self.bed.slow(self.rtt_ms)
        return made


def _can_log_in(site: Site, person: Person) -> bool:
    return site.log_in_person(person).has_role()


def _sites(
    keystones: Iterable[tuple[Region, Keystone]], password: str
) -> list[Site]:
    return [Site(*each, password) for each in keystones]


def of_cassandra(bed: Bed, rtt_ms: int) -> System:
    """Return the Keystones that the bed has started."""
    keystones = [(region, region.keystone) for region in bed.regions]
    sites = _sites(keystones, bed.password)
    return System(CASSANDRA, bed, rtt_ms, sites, '1', KEYSTONE)


def of_galera(bed: Bed, rtt_ms: int, nodes: Sequence[MariaDB]) -> System:
    """Start a Keystone with SQL drivers and Fernet tokens in each region.

    :param nodes: of MariaDB, the first region's first.
    """
    nodes[0].ask('CREATE DATABASE keystone')
    shared: dict[str, dict[str, Any]] = {}
    keystones: list[tuple[Region, Keystone]] = []
    for region, node in zip(bed.regions, nodes, strict=True):
        keystone = Keystone(
            region.folder / SQL,
            merge(
                SETTINGS,
                {'database': {'connection': node.url('keystone')}},
                shared,
            ),
            workers=region.keystone.workers,
            # The tables are made once.
            sql=not keystones,
            host=region.address,
            port=_SQL_PORT,
            inside=region.entered,
            environment={VARIABLE: str(region.folder / 'clock')},
        )
        for section in 'credential', 'fernet_tokens', 'fernet_receipts':
            shared.setdefault(section, {'key_repository': keystone.keys})
        keystone.bootstrap(bed.password, region.datacenter)
        region.parts[SQL] = Server(keystone)
        region.start(SQL)
        keystones.append((region, keystone))
    sites = _sites(keystones, bed.password)
    return System(GALERA, bed, rtt_ms, sites, MARIADB, SQL)
