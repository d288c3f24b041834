# SPDX-License-Identifier: Apache-2.0
"""Keystone's whole API with values that nobody should send.

Never a 5xx, a log line of an outage, or an exception of ours that Keystone
has no answer for.  All runs try the same, unless FUZZ_SEED chooses others;
FUZZ_REQUESTS is how many.  With FUZZ_SEED also what Keystone is known to
answer 500 to is tried with its own drivers.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import os
import random
import re
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.server import Keystone

from tests.fault import api
from tests.fault.api import Known
from tests.fault.keystone_servers import all_on_cassandra, outages

#: A new one can meet another fault of Keystone's, which is not ours to mend.
SEED = int(os.environ.get('FUZZ_SEED', '1'))
VERIFY = 'FUZZ_SEED' in os.environ
REQUESTS = int(os.environ.get('FUZZ_REQUESTS', '700'))

_PASSWORD = uuid.uuid4().hex
_MEBIBYTE = 2**20
_SETTINGS = {
    'identity': {'password_hash_rounds': 4},
    'token': {'caching': False},
    # So that what is large gets as far as the drivers.
    'oslo_middleware': {'max_request_body_size': 20 * _MEBIBYTE},
}

#: Some of them are made of the value that fits.
VALUES: dict[str, Callable[[Any], Any]] = {
    '300 characters': lambda fit: 'x' * 300,
    '70,000 characters': lambda fit: 'x' * 70_000,
    'NUL': lambda fit: 'a\0b',
    'lone surrogate': lambda fit: 'a\ud800b',
    'NFD': lambda fit: 'Zoe\u0308',
    'not NFC': lambda fit: '\u212b\ufb01',
    'emoji': lambda fit: '\U0001f600',
    'trailing blank': lambda fit: f'{fit} ',
    'other case': lambda fit: str(fit).swapcase(),
    'empty': lambda fit: '',
    'blank': lambda fit: ' ',
    'null': lambda fit: None,
    'number': lambda fit: 5,
    'negative': lambda fit: -7,
    'float': lambda fit: 1.5,
    'huge integer': lambda fit: 10**30,
    '64 bits': lambda fit: 2**63,
    '32 bits': lambda fit: 2**31,
    'NaN': lambda fit: float('nan'),
    'infinity': lambda fit: float('inf'),
    'true': lambda fit: True,
    'false': lambda fit: False,
    'list': lambda fit: ['a', 5, None],
    'empty list': lambda fit: [],
    'object': lambda fit: {'a': {'b': 'c'}},
    'empty object': lambda fit: {},
    'list of it': lambda fit: [fit, fit],
    'surrogates in it': lambda fit: {'a\ud800': ['b\ud800']},
}
#: A URL is text; the server's limit is below 70,000.
IN_URL = [
    name
    for name, make in VALUES.items()
    if isinstance(make('x'), str) and name != '70,000 characters'
] + ['3,000 characters', 'no UTF-8']
VALUES['3,000 characters'] = lambda fit: 'x' * 3_000
VALUES['no UTF-8'] = lambda fit: b'\xed\xa0\x80\xff'

#: What Keystone answers 500 to with its SQL drivers, too: a part of the
#: request, and where it comes from.
KEYSTONES = [
    (r'GET .* query limit: ', 'int() of it, in the hints of a list'),
    (
        r'GET /v3/OS-OAUTH1/(access|request)_token ',
        'not allowed, which nobody enforced',
    ),
    (
        r'GET /v3/auth/OS-FEDERATION/saml2(/ecp)? ',
        'not allowed, which nobody enforced',
    ),
    (r'POST /v3/(services|projects) ', 'nothing in the body, or no name'),
    (
        r'(PUT|PATCH) /v3/OS-FEDERATION/mappings/.* body ',
        'takes any mapping for an object',
    ),
    (
        r'(POST|PATCH) /v3/OS-OAUTH1/consumers.* body ',
        'takes any consumer for an object',
    ),
    (r'POST /v3/(ec2|s3)tokens body ', 'hashes what may be no text'),
    (
        r'POST /v3/users/.*/password body .*: lone surrogate',
        'hashes what is no text',
    ),
    (
        r'POST /v3/users/.*/password path .*: 3[,0]+ characters',
        'a notification about such a user',
    ),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """One value in one place of a request.

    :ivar place: ``path``, ``query``, ``body``, ``attribute`` or ``subject``.
    """

    route: api.Route
    place: str
    path: api.Path
    value: str

    def __str__(self) -> str:
        where = '.'.join(map(str, self.path))
        return f'{self.route} {self.place} {where}: {self.value}'


def places(route: api.Route) -> Iterator[tuple[str, api.Path]]:
    for name in route.arguments:
        yield 'path', (name,)
    for name in route.query:
        yield 'query', (name,)
    if route.rule == '/v3/auth/tokens':
        yield 'subject', ()
    if route.body is not None:
        yield 'body', ()
        for path in api.fields(route.body):
            yield 'body', path
        # One more attribute, which Keystone keeps for most things.
        (kind, *_) = route.body.get('properties', {'x': None})
        yield 'attribute', (kind,)
        yield 'attribute value', (kind, 'more')


def cases(routes: list[api.Route]) -> Iterator[Case]:
    """Yield cases for ever: in each round another value for each place."""
    chooser = random.Random(SEED)
    all_places = [
        (route, place, path)
        for route in routes
        if route.rule not in api.LEFT_OUT
        for place, path in places(route)
    ]
    left: dict[Any, list[str]] = {}
    while True:
        chooser.shuffle(all_places)
        for number, (route, place, path) in enumerate(all_places):
            in_url = place in ('path', 'query', 'subject')
            values = left.setdefault((str(route), place, path), [])
            if not values:
                values.extend(IN_URL if in_url else VALUES)
                if not in_url:
                    values.remove('no UTF-8')
                chooser.shuffle(values)
            # One in twenty as it should be.
            value = 'fits' if number % 20 == 0 else values.pop()
            yield Case(route, place, path, value)


class World:
    """One of each kind of thing in a Keystone, and a way to ask it.

    :ivar ids: the id of each by the name that routes have for it.
    """

    def __init__(self, keystone: Keystone) -> None:
        self.url = keystone.url
        client = Client(keystone.url, keystone.workers)
        login = client.log_in('admin', _PASSWORD, **ADMIN_SCOPE)
        client.close()
        self.token = login.auth_token
        self.ids = {
            'me': login.user_id,
            'my_project': login.project_id,
            'group': 'ldap',
            'option': 'url',
            'value': 'tag',
            'region_id': f'Region-{uuid.uuid4().hex[:6]}',
            'request_token_id': uuid.uuid4().hex,
            'access_token_id': uuid.uuid4().hex,
        }
        self._connections: dict[int, requests.Session] = {}
        self._make()

    def _make(self) -> None:
        ids, name = self.ids, uuid.uuid4().hex[:8]

        def make(
            argument: str, path: str, body: Any, method: str = 'POST'
        ) -> None:
            answer = self.send(method, f'/v3/{path}', json.dumps(body))
            assert answer.ok, (path, answer.status_code, answer.text)
            made = next(iter(answer.json().values()))
            ids[argument] = (made[0] if isinstance(made, list) else made)['id']

        make('domain_id', 'domains', {'domain': {'name': name}})
        of = {'name': name, 'domain_id': ids['domain_id']}
        make('project_id', 'projects', {'project': {**of, 'tags': ['tag']}})
        make('group_id', 'groups', {'group': of})
        make('user_id', 'users', {'user': {**of, 'password': 'Secret-1'}})
        make('role_id', 'roles', {'role': {'name': name}})
        ids['prior_role_id'] = ids['role_id']
        make('implied_role_id', 'roles', {'role': {'name': f'{name}i'}})
        region = {'id': ids['region_id']}
        make('region_id', 'regions', {'region': region})
        make(
            'service_id', 'services', {'service': {'type': 't', 'name': name}}
        )
        of_service = {'service_id': ids['service_id'], 'region_id': None}
        endpoint = {**of_service, 'interface': 'public', 'url': 'http://x/'}
        make('endpoint_id', 'endpoints', {'endpoint': endpoint})
        make('policy_id', 'policies', {'policy': {'type': 't', 'blob': '{}'}})
        credential = {'type': 'cert', 'blob': 'b', 'user_id': ids['user_id']}
        make('credential_id', 'credentials', {'credential': credential})
        resource = {'service_id': ids['service_id'], 'resource_name': 'cpu'}
        make(
            'registered_limit_id',
            'registered_limits',
            {'registered_limits': [{**resource, 'default_limit': 1}]},
        )
        limit = {'project_id': ids['project_id'], 'resource_limit': 1}
        make('limit_id', 'limits', {'limits': [{**resource, **limit}]})
        make('consumer_id', 'OS-OAUTH1/consumers', {'consumer': {}})
        make(
            'endpoint_group_id',
            'OS-EP-FILTER/endpoint_groups',
            {
                'endpoint_group': {
                    'name': name,
                    'filters': {'interface': 'public'},
                }
            },
        )
        federation = 'OS-FEDERATION'
        rules = [
            {'local': [{'user': {'name': '{0}'}}], 'remote': [{'type': 'a'}]}
        ]
        make(
            'mapping_id',
            f'{federation}/mappings/{name}',
            {'mapping': {'rules': rules}},
            'PUT',
        )
        idp = f'{federation}/identity_providers/{name}'
        make('idp_id', idp, {'identity_provider': {}}, 'PUT')
        make(
            'protocol_id',
            f'{idp}/protocols/saml2',
            {'protocol': {'mapping_id': name}},
            'PUT',
        )
        make(
            'service_provider_id',
            f'{federation}/service_providers/{name}',
            {
                'service_provider': {
                    'auth_url': 'http://x',
                    'sp_url': 'http://x',
                }
            },
            'PUT',
        )
        rule = {'service': 'identity', 'path': '/v3', 'method': 'GET'}
        mine = {'name': name, 'access_rules': [rule]}
        path = f'users/{ids["me"]}/application_credentials'
        make(
            'application_credential_id', path, {'application_credential': mine}
        )
        rules_path = f'/v3/users/{ids["me"]}/access_rules'
        rules = self.send('GET', rules_path).json()['access_rules']
        ids['access_rule_id'] = rules[0]['id']
        roles = self.send('GET', '/v3/roles?name=admin').json()['roles']
        trust = {
            'trustor_user_id': ids['me'],
            'trustee_user_id': ids['user_id'],
            'impersonation': False,
            'project_id': ids['my_project'],
            'roles': [{'id': roles[0]['id']}],
        }
        make('trust_id', 'OS-TRUST/trusts', {'trust': trust})

    def send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        subject: bytes | None = None,
        thread: int = 0,
    ) -> requests.Response:
        connection = self._connections.get(thread)
        if connection is None:
            connection = self._connections[thread] = requests.Session()
            connection.trust_env = False
        headers: dict[str, Any] = {
            'X-Auth-Token': self.token,
            'Content-Type': 'application/json',
        }
        if subject is not None:
            headers['X-Subject-Token'] = subject
        request = requests.Request(
            method, self.url, data=body, headers=headers
        ).prepare()
        request.url = self.url + path  # as it is, unquoted
        return connection.send(request, timeout=60, allow_redirects=False)

    def request(self, case: Case) -> tuple[str, str, str | None, bytes | None]:
        """Return method, path, body and subject of a case."""
        route, ids = case.route, self.ids
        arguments = {
            name: urllib.parse.quote(self._id(route, name), safe='')
            for name in route.arguments
        }
        if case.place == 'path' and case.value != 'fits':
            fit = self._id(route, case.path[0])
            arguments[case.path[0]] = _quoted(VALUES[case.value](fit)) or '%20'
        path = route.path(arguments)
        subject = body = None
        if case.place == 'query':
            fit = ids.get(case.path[0], 'x')
            path += f'?{case.path[0]}={_quoted(_value(case, fit))}'
        if case.place == 'subject':
            made = _value(case, 'x' * 47)
            subject = urllib.parse.unquote_to_bytes(_quoted(made))
            subject = re.sub(rb'[\r\n]', b'', subject).strip()
        if route.body is not None:
            body = json.dumps(self._body(case))
        return route.method, path, body, subject

    def _body(self, case: Case) -> Any:
        body = api.example(case.route.body or {})
        if case.value == 'fits':
            return self._filled(body)
        body = self._filled(body)
        if case.place in ('body', 'attribute value'):
            fit = body
            for step in case.path:
                fit = _inside(fit, step)
            return api.with_value(body, case.path, _value(case, fit or 'x'))
        if case.place == 'attribute':
            inner = body.get(case.path[0])
            if isinstance(inner, dict):
                name = _value(case, 'name')
                inner[name if isinstance(name, str) else json.dumps(name)] = (
                    'y'
                )
        return body

    def _id(self, route: api.Route, name: str) -> str:
        # Which only their owner may make and read.
        if name == 'user_id' and re.search(
            'application_cred|access_rule', route.rule
        ):
            name = 'me'
        return self.ids[name]

    def _filled(self, body: Any) -> Any:
        if isinstance(body, Known):
            return self.ids.get(body, uuid.uuid4().hex)
        if isinstance(body, dict):
            return {name: self._filled(each) for name, each in body.items()}
        if isinstance(body, list):
            return [self._filled(each) for each in body]
        return body


def _inside(body: Any, step: str | int) -> Any:
    try:
        return body[step]
    except (IndexError, KeyError, TypeError):
        return None


def _value(case: Case, fit: Any) -> Any:
    return fit if case.value == 'fits' else VALUES[case.value](fit)


def _quoted(value: Any) -> str:
    if isinstance(value, bytes):
        return urllib.parse.quote_from_bytes(value, safe='')
    return urllib.parse.quote(str(value), safe='', errors='surrogatepass')


def shortened(text: str | None) -> str:
    """Return a body so that it can be read, and made again."""
    return re.sub(
        r'(x{40,})', lambda found: f'<x * {len(found[1])}>', text or ''
    )


@pytest.fixture(scope='module')
def keystone(
    cassandra_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keystone]:
    """A Keystone on our drivers alone."""
    directory = tmp_path_factory.mktemp('fuzz') / 'keystone'
    with all_on_cassandra(
        cassandra_cluster, directory, _PASSWORD, _SETTINGS
    ) as keystone:
        yield keystone


@pytest.fixture(scope='module')
def with_sql(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], World]]:
    """Return what makes a Keystone on its own drivers, once it is wanted."""
    made: list[tuple[Keystone, World]] = []

    def make() -> World:
        if not made:
            keystone = Keystone(
                tmp_path_factory.mktemp('fuzz-sql') / 'keystone', _SETTINGS
            )
            keystone.bootstrap(_PASSWORD)
            keystone.start()
            made.append((keystone, World(keystone)))
        return made[0][1]

    yield make
    for keystone, _ in made:
        keystone.stop()


@pytest.fixture(scope='module')
def world(keystone: Keystone) -> World:
    return World(keystone)


@pytest.fixture(scope='module')
def routes(keystone: Keystone) -> list[api.Route]:
    return api.all_routes()


def test_no_route_is_left_out(world: World, routes: list[api.Route]) -> None:
    assert len(routes) > 200
    assert set(api.LEFT_OUT) <= {route.rule for route in routes}
    assert not api.without_reason(routes)
    tried = [route for route in routes if route.rule not in api.LEFT_OUT]
    for route in tried:
        assert set(route.arguments) <= world.ids.keys(), str(route)
    one_round = itertools.islice(
        cases(routes), sum(len(list(places(route))) for route in tried)
    )
    assert {str(case.route) for case in one_round} == {
        str(route) for route in tried if list(places(route))
    }


def test_nothing_makes_it_fail(
    keystone: Keystone,
    world: World,
    routes: list[api.Route],
    with_sql: Callable[[], World],
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses: Counter[int] = Counter()
    failed: list[tuple[Case, str]] = []
    chosen = list(itertools.islice(cases(routes), REQUESTS))

    def run(thread: int) -> None:
        for case in chosen[thread::2]:
            method, path, body, subject = world.request(case)
            answer = world.send(method, path, body, subject, thread)
            statuses[answer.status_code] += 1
            if answer.status_code == 401 and 'auth/tokens' not in path:
                world.token = _log_in(keystone)
            if answer.status_code >= 500:
                told = f'{answer.status_code} {method} {path} {body}'
                failed.append((case, shortened(told)))

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run, thread) for thread in (0, 1)]:
            done.result()
    with capsys.disabled():
        print(
            f'\nFUZZ_SEED={SEED} made {sum(statuses.values())} requests:'
            f' {dict(sorted(statuses.items()))}'
        )
    wrong = [
        f'{case}\n    {told}\n    with SQL {there}'
        for case, told in failed
        if VERIFY or not _is_listed(case)
        for there in [_with_sql(case, with_sql)]
        if there < 500 or not _is_listed(case)
    ]
    log = keystone.log()
    assert not wrong, f'FUZZ_SEED={SEED}:\n' + '\n'.join(wrong)
    assert not outages(keystone)
    assert not _ours(log), '\n'.join(_ours(log))
    # Most of it was let in, or refused for what it should be refused for.
    assert statuses[401] < sum(statuses.values()) / 10
    assert sum(statuses[code] for code in (200, 201, 204)) > (
        sum(statuses.values()) / 8
    )


@pytest.mark.parametrize(
    ('kind', 'path', 'values'),
    [
        ('policy', 'policies', {'type': 't', 'blob': '{huge}'}),
        ('credential', 'credentials', {'type': 'cert', 'blob': '{huge}'}),
        ('group', 'groups', {'name': 'g', 'description': '{huge}'}),
        ('user', 'users', {'name': 'u', 'more': '{huge}'}),
        ('project', 'projects', {'name': 'p', 'more': {'a': '{huge}'}}),
    ],
)
def test_16_mebibytes(
    keystone: Keystone, world: World, kind: str, path: str, values: Any
) -> None:
    """More than the node takes at once, where Keystone lets it through."""
    before = len(outages(keystone))
    if kind == 'credential':
        values = values | {'user_id': world.ids['user_id']}
    body = json.dumps({kind: values})
    large = body.replace('{huge}', 'x' * 16 * _MEBIBYTE)
    answer = world.send('POST', f'/v3/{path}', large)
    assert answer.status_code == 400, answer.text[:300]
    # Nothing of it stays: the same name is free.
    small = body.replace('{huge}', 'x')
    answer = world.send('POST', f'/v3/{path}', small)
    assert answer.status_code == 201, answer.text[:300]
    assert len(outages(keystone)) == before


def _log_in(keystone: Keystone) -> str:
    client = Client(keystone.url, keystone.workers)
    try:
        return client.log_in('admin', _PASSWORD, **ADMIN_SCOPE).auth_token
    finally:
        client.close()


def _is_listed(case: Case) -> bool:
    return any(re.search(known, str(case)) for known, _ in KEYSTONES)


def _with_sql(case: Case, with_sql: Callable[[], World]) -> int:
    """Return the status of the same request with SQL's drivers."""
    world = with_sql()
    return world.send(*world.request(case)).status_code


#: The end of a traceback in Keystone's log.
_RAISED = re.compile(
    r'ERROR \S+ ([a-z_]+(?:\.\w+)*\.?\w*(?:Error|Exception)\b.*)'
)


def _ours(log: str) -> list[str]:
    """Return what a log has of exceptions that nobody expects, of ours."""
    found: list[str] = []
    block: list[str] = []
    for line in log.splitlines():
        if 'Traceback (most recent call last)' in line:
            block = []
        block.append(line)
        raised = _RAISED.search(line)
        if raised and 'keystone.exception' not in raised[1]:
            ours = [
                each for each in block if 'keystone_cassandra_token' in each
            ]
            if ours and 'ValueRefused' not in line:
                found.append('\n'.join(block[-30:]))
            block = []
        elif 'ERROR keystone_cassandra_token' in line:
            found.append(line)
    return found
