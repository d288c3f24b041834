# SPDX-License-Identifier: Apache-2.0
"""What ends in one region ends in the other one, which remembers it.

Two real servers, one for each of two datacenters, each with a cache that
remembers for an hour.
"""

from __future__ import annotations

import contextlib
import secrets
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cassandra.policies
import command
import pytest
from keystoneauth1 import exceptions
from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client, direct_session
from lab.schema import quick_schema
from lab.server import ALL_DRIVERS, Keystone, merge
from lab.waiting import until

from keystone_cassandra_token.db import following
from tests.fault import two_regions

_PASSWORD = secrets.token_urlsafe(16)
_KEYSPACE = 'followed'
_ADDED = 'added'
#: Seconds; the caches remember for longer.
_PATIENCE, _REMEMBERED = 60, 3600
#: Microseconds after which a pulse has stood still.
_LONG = 2 * following.SILENT_AFTER * 10**6


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with two_regions.start_nodes() as cluster:
        yield cluster


class Region:
    """A server, and its administrator."""

    def __init__(
        self, cluster: Cluster, number: int, folder: Path, **cassandra: object
    ) -> None:
        node = cluster.nodes[number]
        self.keystone = Keystone(
            folder,
            merge(
                ALL_DRIVERS,
                {
                    'database': {'cassandra_node_ips': [node.address]},
                    'cassandra': {
                        'port': cluster.port,
                        'keyspace': _KEYSPACE,
                        'local_dc': node.datacenter,
                        **cassandra,
                    },
                    'identity': {'password_hash_rounds': 4},
                    'cache': {
                        'enabled': True,
                        'backend': 'dogpile.cache.memory',
                        'expiration_time': _REMEMBERED,
                    },
                },
            ),
            workers=1,
            sql=False,
        )

    def start(self) -> None:
        self.keystone.start()
        self.client = Client(self.keystone.url, 1)
        self.admin = self.client.log_in(
            'admin', _PASSWORD, **ADMIN_SCOPE
        ).auth_token

    def stop(self) -> None:
        if hasattr(self, 'client'):
            self.client.close()
        self.keystone.stop()

    def call(self, method: str, path: str, json: Any = None) -> Any:
        return self.client.call(method, path, self.admin, json)

    def accepts(self, token: str) -> bool:
        return self.client.validate(self.admin, token) == 200


@pytest.fixture(scope='module')
def regions(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Region, Region, Region]]:
    """A server here, one elsewhere, and one there that does not follow."""
    folder = tmp_path_factory.mktemp('followed')
    here = Region(cluster, 0, folder / 'here')
    elsewhere = Region(cluster, 1, folder / 'elsewhere')
    deaf = Region(cluster, 1, folder / 'deaf', follow_changes=False)
    with contextlib.ExitStack() as stack:
        for each in here, elsewhere, deaf:
            stack.callback(each.stop)
        quick_schema(
            command.configuration(here.keystone.configuration),
            dict.fromkeys(cluster.shape.datacenters, 1),
        )
        here.keystone.bootstrap(_PASSWORD)
        for each in here, elsewhere, deaf:
            each.start()
        yield here, elsewhere, deaf


class Person:
    """A user with a role on a project, by a group."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self.name = uuid.uuid4().hex
        self.password = secrets.token_urlsafe(16)

        def made(kind: str, **values: object) -> str:
            given = {'name': self.name, 'domain_id': 'default', **values}
            return str(region.call('POST', f'/{kind}s', {kind: given})['id'])

        self.role = made('role', domain_id=None)
        self.project = made('project')
        self.group = made('group')
        self.user = made('user', password=self.password)
        region.call('PUT', self.membership)
        region.call('PUT', self.grant)

    @property
    def membership(self) -> str:
        return f'/groups/{self.group}/users/{self.user}'

    @property
    def grant(self) -> str:
        return (
            f'/projects/{self.project}/groups/{self.group}/roles/{self.role}'
        )

    def application_credential(self, token: str) -> dict[str, Any]:
        """Make an application credential of the person's own."""
        made: dict[str, Any] = self._region.client.call(
            'POST',
            f'/users/{self.user}/application_credentials',
            token,
            {'application_credential': {'name': uuid.uuid4().hex}},
        )
        return made

    def log_in(self, region: Region) -> str:
        """Return a token for the project."""
        return str(
            region.client.log_in(
                self.name, self.password, project_id=self.project
            ).auth_token
        )

    def can_log_in(self, region: Region) -> bool:
        with contextlib.suppress(exceptions.Unauthorized):
            return bool(self.log_in(region))
        return False


def _changed_password(here: Region, person: Person, token: str) -> None:
    new = {
        'original_password': person.password,
        'password': secrets.token_urlsafe(16),
    }
    path = f'/users/{person.user}/password'
    here.client.call('POST', path, token, {'user': new})


ENDS: dict[str, Callable[[Region, Person, str], object]] = {
    'token revoked': lambda here, person, token: here.client.request(
        'DELETE', '/auth/tokens', here.admin, subject=token
    ),
    'password changed': _changed_password,
    'user disabled': lambda here, person, token: here.call(
        'PATCH', f'/users/{person.user}', {'user': {'enabled': False}}
    ),
    'user deleted': lambda here, person, token: here.call(
        'DELETE', f'/users/{person.user}'
    ),
    'project disabled': lambda here, person, token: here.call(
        'PATCH', f'/projects/{person.project}', {'project': {'enabled': False}}
    ),
    'role removed': lambda here, person, token: here.call(
        'DELETE', person.grant
    ),
    'left the group': lambda here, person, token: here.call(
        'DELETE', person.membership
    ),
    'group deleted': lambda here, person, token: here.call(
        'DELETE', f'/groups/{person.group}'
    ),
    'role deleted': lambda here, person, token: here.call(
        'DELETE', f'/roles/{person.role}'
    ),
}
#: What ends the token and not what the user may do.
_ONLY_THE_TOKEN = {'token revoked', 'password changed'}


def arrives(region: Region, token: str) -> None:
    until(lambda: region.accepts(token), 'the token is there', _PATIENCE)


@pytest.mark.parametrize('end', ENDS)
def test_what_ends_here_ends_elsewhere(
    regions: tuple[Region, Region, Region], end: str
) -> None:
    here, elsewhere, deaf = regions
    person = Person(here)
    token = person.log_in(here)
    for each in elsewhere, deaf:
        arrives(each, token)
        assert person.log_in(each)
    ENDS[end](here, person, token)
    assert not here.accepts(token)
    until(
        lambda: not elsewhere.accepts(token),
        'the token is refused elsewhere',
        _PATIENCE,
    )
    if end not in _ONLY_THE_TOKEN:
        # Told of by an entry of its own, which may come a look later.
        until(
            lambda: not person.can_log_in(elsewhere),
            'no log-in elsewhere',
            _PATIENCE,
        )
    # It remembers, and this is no test of what is forgotten anyway.
    assert deaf.accepts(token)


def test_an_application_credential_that_is_deleted_ends_elsewhere(
    regions: tuple[Region, Region, Region],
) -> None:
    """By itself: what else is remembered there stays."""
    here, elsewhere, _ = regions
    person = Person(here)
    token = person.log_in(here)
    made = person.application_credential(token)
    asked = f'/users/{person.user}/application_credentials/{made["id"]}'

    def there() -> bool:
        answer = elsewhere.client.request('GET', asked, elsewhere.admin)
        return answer.status_code == 200

    arrives(elsewhere, token)
    until(there, 'the application credential is there', _PATIENCE)
    elsewhere.client.log_in_by_credential(made['id'], made['secret'])
    assert here.client.request('DELETE', asked, token).ok
    until(lambda: not there(), 'it is gone there, too', _PATIENCE)
    with pytest.raises(exceptions.NotFound):
        elsewhere.client.log_in_by_credential(made['id'], made['secret'])


def test_a_change_of_a_region_is_seen_elsewhere(
    regions: tuple[Region, Region, Region],
) -> None:
    """Regions of the catalog are written together, in batches."""
    here, elsewhere, _ = regions
    made = here.call('POST', '/regions', {'region': {'description': 'one'}})
    path = f'/regions/{made["id"]}'

    def described() -> str:
        answer = elsewhere.client.request('GET', path, elsewhere.admin)
        return str(answer.json()['region']['description']) if answer else ''

    until(lambda: described() == 'one', 'the region is there', _PATIENCE)
    here.call('PATCH', path, {'region': {'description': 'two'}})
    until(lambda: described() == 'two', 'so is its change', _PATIENCE)


def test_what_is_given_here_is_had_elsewhere(
    regions: tuple[Region, Region, Region],
) -> None:
    here, elsewhere, _ = regions
    person = Person(here)
    here.call('DELETE', person.grant)

    def may() -> bool:
        with contextlib.suppress(exceptions.Unauthorized):
            return bool(person.log_in(elsewhere))
        return False

    until(lambda: not may(), 'nothing is given there', _PATIENCE)
    here.call('PUT', person.grant)
    until(may, 'it is given there', _PATIENCE)


def test_a_new_endpoint_is_in_the_catalog_elsewhere(
    regions: tuple[Region, Region, Region],
) -> None:
    here, elsewhere, _ = regions
    name = uuid.uuid4().hex

    def listed() -> bool:
        answer = elsewhere.client.request(
            'GET', '/auth/catalog', elsewhere.admin
        )
        assert answer.ok
        return name in {each['name'] for each in answer.json()['catalog']}

    assert not listed()
    service = here.call(
        'POST', '/services', {'service': {'name': name, 'type': name}}
    )
    here.call(
        'POST',
        '/endpoints',
        {
            'endpoint': {
                'service_id': service['id'],
                'interface': 'public',
                'url': 'https://one.example',
            }
        },
    )
    until(listed, 'it is in the catalog', _PATIENCE)


@pytest.fixture
def strict(
    cluster: Cluster,
    regions: tuple[Region, Region, Region],
    tmp_path: Path,
) -> Iterator[Region]:
    """A server here whose revocations all regions confirm."""
    region = Region(
        cluster,
        0,
        tmp_path / 'strict',
        revocation_write_consistency='EACH_QUORUM',
        # What needs all regions is tried for long, and left.
        request_deadline=60,
    )
    try:
        region.start()
        yield region
    finally:
        region.stop()


def test_a_deletion_goes_on_while_a_region_is_not_told(
    cluster: Cluster, strict: Region
) -> None:
    assert cluster.links
    person, other = Person(strict), Person(strict)
    token = person.log_in(strict)
    credential = person.application_credential(token)

    def deleted(user: str) -> int:
        return strict.client.request(
            'DELETE', f'/users/{user}', strict.admin
        ).status_code

    assert deleted(other.user) == 204
    with cluster.links.held():
        assert deleted(person.user) == 503
        assert not strict.accepts(token)
        with pytest.raises(exceptions.NotFound):
            strict.client.log_in_by_credential(
                credential['id'], credential['secret']
            )
        assert deleted(person.user) == 404


def test_a_token_is_accepted_before_it_is_there(
    cluster: Cluster, regions: tuple[Region, Region, Region]
) -> None:
    """The server there asks the region that has issued it."""
    here, elsewhere, _ = regions
    person = Person(here)
    arrives(elsewhere, person.log_in(here))
    assert cluster.links
    with cluster.links.held():
        token = person.log_in(here)
        # Unless the one is slower to answer than the other one waits.
        arrives(elsewhere, token)


def beat(cluster: Cluster) -> int:
    """Return the pulse of the first region as it sees it."""
    node = cluster.nodes[0]
    only_here = cassandra.policies.WhiteListRoundRobinPolicy([node.address])
    with cluster.connect(load_balancing_policy=only_here) as session:
        (row,) = session.execute(
            f'SELECT beat FROM {_KEYSPACE}.pulse WHERE bucket = 0'
            ' AND datacenter = %s',
            [node.datacenter],
        )
    return int(row.beat)


@contextlib.contextmanager
def cut_off(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Hold what the regions send each other.

    :yields: what waits until the pulse of the first one has gone on for long.
    """
    assert cluster.links
    with cluster.links.held():
        began = beat(cluster)
        yield lambda: until(
            lambda: beat(cluster) - began > _LONG,
            'the pulse has gone on for long',
            _PATIENCE,
        )


def with_a_token(here: Region, elsewhere: Region) -> tuple[Person, str]:
    """Return a person, and a token that is accepted in both regions."""
    person = Person(here)
    token = person.log_in(here)
    arrives(elsewhere, token)
    return person, token


def test_what_ended_while_nothing_was_heard_ends(
    cluster: Cluster, regions: tuple[Region, Region, Region]
) -> None:
    here, elsewhere, _ = regions
    _, token = with_a_token(here, elsewhere)
    with cut_off(cluster) as long:
        here.client.request(
            'DELETE', '/auth/tokens', here.admin, subject=token
        )
        long()
        assert elsewhere.accepts(token)
    until(
        lambda: not elsewhere.accepts(token),
        'the token is refused elsewhere',
        _PATIENCE,
    )


def test_whom_a_region_that_is_cut_off_lets_in_is_stopped_later(
    cluster: Cluster, regions: tuple[Region, Region, Region]
) -> None:
    """With the former password; who knows the new one goes on."""
    here, elsewhere, _ = regions
    person, _ = with_a_token(here, elsewhere)
    with cut_off(cluster) as long:
        former = person.password
        person.password = secrets.token_urlsafe(16)
        here.call(
            'PATCH',
            f'/users/{person.user}',
            {'user': {'password': person.password}},
        )
        long()
        knows = person.log_in(here)
        person.password, new = former, person.password
        let_in = person.log_in(elsewhere)
        assert elsewhere.accepts(let_in)
    arrives(elsewhere, knows)
    for each in elsewhere, here:
        until(
            lambda each=each: not each.accepts(let_in),
            'the token is refused',
            _PATIENCE,
        )
        assert each.accepts(knows)
    person.password = new
    until(
        lambda: person.can_log_in(elsewhere),
        'a log-in with the new password',
        _PATIENCE,
    )
    assert elsewhere.accepts(person.log_in(elsewhere))


def test_a_region_serves_once_it_is_ready(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One that is rebuilt may have a token, and not what has revoked it."""
    home, added = cluster.nodes
    here = Region(cluster, 0, tmp_path / 'here', keyspace=_ADDED)
    there = Region(cluster, 1, tmp_path / 'there', keyspace=_ADDED)
    with contextlib.ExitStack() as stack:
        for each in here, there:
            stack.callback(each.stop)
        quick_schema(
            command.configuration(here.keystone.configuration),
            {home.datacenter: 1},
        )
        here.keystone.run('keystone-cassandra', 'schema', 'apply')
        here.keystone.bootstrap(_PASSWORD)
        here.start()
        person = Person(here)
        token = person.log_in(here)
        with cluster.connect() as session:
            session.execute(
                f'ALTER KEYSPACE {_ADDED} WITH replication = '
                "{'class': 'NetworkTopologyStrategy',"
                f" '{home.datacenter}': 1, '{added.datacenter}': 1}}"
            )
        added.nodetool('rebuild', '-ks', _ADDED, '--', home.datacenter)
        # It has the token and not what comes now: nothing is sent later.
        added.stop()
        until(lambda: not home.sees_up(added), 'the node to be down')
        here.client.request(
            'DELETE', '/auth/tokens', here.admin, subject=token
        )
        added.start()
        there.keystone.start()
        assert _log_in_status(there) == 503
        assert 'is not ready' in there.keystone.log()
        assert 'Start its servers' in there.keystone.run(
            'keystone-cassandra', 'region', 'ready'
        )
        until(
            lambda: _log_in_status(there) == 201,
            'a log-in in the region',
            _PATIENCE,
        )
        there.client = Client(there.keystone.url, 1)
        there.admin = there.client.log_in(
            'admin', _PASSWORD, **ADMIN_SCOPE
        ).auth_token
        assert not there.accepts(token)
        assert there.accepts(person.log_in(there))
        here.keystone.run(
            'keystone-cassandra', 'region', 'withdraw', added.datacenter
        )
        there.keystone.restart()
        assert _log_in_status(there) == 503


def _log_in_status(region: Region) -> int:
    """Return the status of a log-in of the administrator."""
    admin = {
        'name': 'admin',
        'domain': {'id': 'default'},
        'password': _PASSWORD,
    }
    methods = {'methods': ['password'], 'password': {'user': admin}}
    with direct_session() as session:
        answer = session.post(
            f'{region.keystone.url}/v3/auth/tokens',
            json={'auth': {'identity': methods}},
            timeout=_PATIENCE,
        )
    return answer.status_code
