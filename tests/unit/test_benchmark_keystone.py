# SPDX-License-Identifier: Apache-2.0
"""The requests to a whole Keystone, and their round trips."""

from __future__ import annotations

import itertools
import json
import operator
from pathlib import Path

import pytest
from lab import statements
from lab.benchmark import calls, identity, keystone
from lab.benchmark.clients import Pool
from lab.statements import Sent, Trips

SITE = calls.Site(
    port=1,
    workers=('10', '11'),
    admin='the admin',
    project='a project',
    people=(
        calls.Person('alice', 'hers', 'token a', 'trust a', ('id a', 'sa')),
        calls.Person('bob', 'his', 'token b', 'trust b', ('id b', 'sb')),
    ),
    users=100,
)


def some(operation: str, count: int = 3) -> list[calls.Request]:
    return list(itertools.islice(calls.requests(SITE, operation), count))


@pytest.mark.parametrize('operation', calls.OPERATIONS)
def test_requests_are_of_each_person_in_turn(operation: str) -> None:
    first, second, third = some(operation)
    assert first.method in ('GET', 'POST')
    assert first.path.startswith('/v3/')
    assert first.status == (201 if first.method == 'POST' else 200)
    json.dumps(first.body)
    # What asks for nobody in particular is by chance.
    if operation not in (f'list {identity.PAGE} users', 'create user'):
        assert first != second
        assert first == third


def test_a_log_in_names_its_person_and_its_scope() -> None:
    first, second, _ = some(calls.LOGIN)
    user = first.body['auth']['identity']['password']['user']
    assert (user['name'], user['password']) == ('alice', 'hers')
    assert second.body['auth']['scope']['project']['name'] == 'a project'
    trusted = some('trust-scoped token')[0].body['auth']
    assert trusted['scope'] == {'OS-TRUST:trust': {'id': 'trust a'}}
    assert trusted['identity'] == first.body['auth']['identity']


def test_a_validation_is_by_a_service() -> None:
    headers = some(calls.VALIDATION)[1].headers
    assert headers['X-Auth-Token'] == 'the admin'
    assert headers['X-Subject-Token'] == 'token b'


def test_users_are_created_elsewhere_than_they_are_listed() -> None:
    first, second, _ = some('create user')
    assert first.body != second.body
    assert first.body['user']['domain_id'] != identity.DOMAIN
    assert f'domain_id={identity.DOMAIN}' in some('list 100 users')[0].path


def test_round_trips_are_told_apart() -> None:
    texts = ('PING', 'SELECT a', '\n SELECT b', 'ROLLBACK', 'PING', 'COMMIT')
    sent = [Sent(text, wait) for wait, text in enumerate(texts, 1)]
    assert statements.trips(sent) == Trips(2, ends=2, pings=2, waits=6)
    assert statements.trips([]) == Trips(0, 0, 0, 0)


def test_what_is_under_way_at_once_is_one_wait() -> None:
    request = statements._Request()
    first = request.send('first')
    second = request.send('beside it')
    request.answer(first)
    third = request.send('behind the first')
    request.answer(third)
    # Its answer tells nothing that is not known.
    request.answer(second)
    fourth = request.send('behind all')
    assert (first, second, third, fourth) == (1, 1, 2, 3)
    assert statements.trips(request.sent) == Trips(4, 0, 0, waits=3)
    request.clear()
    assert request.sent == []
    assert request.send('of the next request') == 1


def test_statements_are_kept_request_by_request(tmp_path: Path) -> None:
    path = tmp_path / 'statements'
    record = statements.Record(str(path))
    for texts in (('SELECT a', 'SELECT b'), ()):
        record.begin()
        for text in texts:
            record.request.send(text)
        record.end({'REQUEST_METHOD': 'GET', 'PATH_INFO': '/v3'})
    assert statements.read(path) == [
        [Sent('SELECT a', 1), Sent('SELECT b', 1)],
        [],
    ]
    assert json.loads(path.read_text().splitlines()[0])['request'] == 'GET /v3'


def test_the_table_has_both_systems_side_by_side() -> None:
    counted = {
        system: dict.fromkeys(calls.OPERATIONS, Trips(5, 2, 1, waits))
        for system, waits in (('cassandra', 3), ('sql', 8))
    }
    table = keystone.table(counted)
    assert len(table.lines) == 2 * len(calls.OPERATIONS)
    assert table.lines[0] == ('cassandra', calls.LOGIN, '5', '2', '1', '3')
    assert table.lines[1][0] == 'sql'
    assert {len(line) for line in table.lines} == {len(table.headings)}


def test_clients_have_numbers_of_their_own() -> None:
    pool = Pool(int)
    try:
        assert pool.share(operator.pos, [()] * 3) == [0, 1, 2]
    finally:
        pool.shrink(0)
