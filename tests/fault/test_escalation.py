# SPDX-License-Identifier: Apache-2.0
"""What one region has made is found in the other one before it is there.

Nothing gets through between the regions, so nothing that is found in the
second one has been replicated; clients reach the nodes of both.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import functools
import multiprocessing
import secrets
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keystone.conf
import pytest
from keystone import exception
from keystone.common import utils as ks_utils
from keystone.common.driver_hints import Hints
from keystone.models.receipt_model import ReceiptModel
from keystone.models.token_model import TokenModel
from lab.waiting import until
from oslo_utils import timeutils

from keystone_cassandra_token.db import (
    consistency,
    deadline,
    escalation,
    remembered,
)
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.session import Sessions
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import (
    application_credential,
    credential,
    policy,
    trust,
)
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.assignment.role import Role
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.catalog import endpoints, regions
from keystone_cassandra_token.drivers.catalog.driver import Catalog
from keystone_cassandra_token.drivers.identity import (
    federation,
    groups,
    users,
)
from keystone_cassandra_token.drivers.identity.driver import Identity
from keystone_cassandra_token.drivers.identity.shadow_users import ShadowUsers
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.drivers.resource.driver import Resource
from keystone_cassandra_token.drivers.token import provider as tokens
from keystone_cassandra_token.drivers.token import receipt as receipts
from keystone_cassandra_token.tables.entity import Entity
from tests.fault import faults, two_regions
from tests.fault.two_regions import Regions, overridden

D = TypeVar('D', bound=Driver)

KEY = 'k' * 40
processes = multiprocessing.get_context('fork')


@pytest.fixture(scope='module')
def started() -> Iterator[Regions]:
    with two_regions.started() as regions:
        yield regions


class Pair:
    """The two regions, of which the second one asks the first one.

    :ivar regions: both.
    :ivar here: the store of a server in the second one.
    """

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.there, here = regions.stores
        self.here = copy.copy(here)
        self.here.escalation = escalation.Escalation(self.here)

    @property
    def asked(self) -> Store:
        """The store by which the second one asks the first one."""
        assert self.here.escalation is not None
        others = self.here.escalation.others()
        (reached,) = self.here.escalation.reached(others, others)
        return reached.store

    def of(self, driver: type[D]) -> tuple[D, D]:
        """Return a driver of the first region, and of the second one."""
        made = driver(), driver()
        for each, store in zip(made, (self.there, self.here), strict=True):
            each.db = store
        return made

    @contextlib.contextmanager
    def made_there(
        self, insert: Statement, make: Callable[[], object]
    ) -> Iterator[None]:
        """Make something there, of which only the names have arrived here.

        All agree on names; while nothing gets through nobody can claim one.

        :param insert: what is sent once its names are claimed.
        """
        with (
            faults.stalled(self.there, insert, make) as late,
            self.regions.held(),
        ):
            late.finish()
            assert not isinstance(late.said, Exception), late.said
            yield

    @contextlib.contextmanager
    def made(self, kind: Kind, *given: str) -> Iterator[Any]:
        """Make one there; yield a driver of the second region.

        Of what all regions agree on the first one alone has what was agreed
        on: written as if it needed no other.
        """
        there, here = self.of(kind.driver)
        if kind.entity.everywhere:
            there.db = alone(there.db)
            with self.regions.held():
                kind.make(there, *given)
                yield here
        else:
            with self.made_there(
                kind.entity.insert, lambda: kind.make(there, *given)
            ):
                yield here

    @contextlib.contextmanager
    def counted(self) -> Iterator[Sent]:
        """Note what the second one sends here, and what it asks there."""
        with (
            faults.counted(self.here) as here,
            faults.counted(self.asked) as there,
        ):
            yield Sent(here, there)


class Alone:
    """The sessions of a store, by which its region agrees with no other."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        known = sessions.get()
        section = keystone.conf.CONF.cassandra
        policy = consistency.Policy(
            dict(section) | {'global_serial_consistency': 'LOCAL_SERIAL'}
        )
        self._connection = dataclasses.replace(
            known, policy=policy, prepared={}
        )

    def get(self) -> Connection:
        return self._connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sessions, name)


def alone(store: Store) -> Store:
    """Return a store whose region agrees by itself."""
    found = copy.copy(store)
    found.sessions = Alone(store.sessions)  # type: ignore[assignment]
    found.interceptors = ()
    return found


class Sent:
    """Statements sent to the own region, and to the other one."""

    def __init__(self, here: list[Any], there: list[Any]) -> None:
        self.here = here
        self.there = there

    @property
    def numbers(self) -> tuple[int, int]:
        return len(self.here), len(self.there)


@pytest.fixture
def pair(started: Regions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    # This machine may be slow.
    monkeypatch.setattr(escalation, 'WITHIN', faults.PATIENCE)
    deadline.serving.set()
    pair = Pair(started)
    try:
        # Else the first test would count how it is opened.
        pair.asked.sessions.get()
        yield pair
    finally:
        deadline.serving.clear()
        assert pair.here.escalation is not None
        pair.here.escalation.close()


@pytest.fixture(params=[None, KEY], ids=['no key', 'key'])
def key(request: pytest.FixtureRequest) -> Iterator[str | None]:
    with overridden('cassandra', token_key=request.param):
        yield request.param


def in_an_hour() -> str:
    return str(
        ks_utils.isotime(
            timeutils.utcnow() + datetime.timedelta(hours=1), subsecond=True
        )
    )


def a_token() -> TokenModel:
    model = TokenModel()
    model.user_id, model.methods = uuid.uuid4().hex, ['password']
    model.audit_id = uuid.uuid4().hex
    model.expires_at = in_an_hour()
    return model


def a_receipt() -> ReceiptModel:
    model = ReceiptModel()
    model.user_id, model.methods = uuid.uuid4().hex, ['password', 'totp']
    model.expires_at = in_an_hour()
    return model


def issued(driver: Any, model: Any) -> str:
    return str(driver.generate_id_and_issued_at(model)[0])


def is_refused(validate: Callable[[str], object], value: str) -> bool:
    try:
        validate(value)
    except exception.NotFound:
        return True
    return False


class TestIds:
    def test_a_token_is_found(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(tokens.Provider)
        model = a_token()
        with pair.regions.held():
            token = issued(there, model)
            with pair.counted() as sent:
                found = here.validate_token(token)
        assert found[0] == model.user_id
        assert sent.numbers == (1, 1)

    def test_a_receipt_is_found(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(receipts.Provider)
        model = a_receipt()
        with pair.regions.held():
            receipt = issued(there, model)
            with pair.counted() as sent:
                found = here.validate_receipt(receipt)
        assert found[0] == model.user_id
        assert sent.numbers == (1, 1)

    def test_it_is_asked_for_once_in_a_request(self, pair: Pair) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held():
            token = issued(there, a_token())
            with remembered.within_request(), pair.counted() as sent:
                for _ in range(2):
                    here.validate_token(token)
        assert sent.numbers == (1, 1)

    def test_what_is_here_is_not_asked_for(self, pair: Pair) -> None:
        _, here = pair.of(tokens.Provider)
        token = issued(here, a_token())
        with pair.counted() as sent:
            here.validate_token(token)
        assert sent.numbers == (1, 0)

    def test_what_was_issued_here_is_not(self, pair: Pair) -> None:
        connection = pair.here.sessions.get()
        invented = tokens.IDS.make(keystone.conf.CONF, connection.local_dc)
        _, here = pair.of(tokens.Provider)
        with pair.counted() as sent:
            assert is_refused(here.validate_token, invented)
        assert sent.numbers == (1, 0)

    def test_what_was_issued_long_ago_is_not(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held():
            token = issued(there, a_token())
            grow_old(monkeypatch)
            with pair.counted() as sent:
                assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_it_is_switched_off(self, pair: Pair, key: str | None) -> None:
        there, here = pair.of(tokens.Provider)
        with (
            pair.regions.held(),
            pair.counted() as sent,
            overridden('cassandra', escalation_rate=0.0),
        ):
            token = issued(there, a_token())
            assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_a_command_asks_nobody(self, pair: Pair) -> None:
        there, here = pair.of(tokens.Provider)
        with pair.regions.held(), pair.counted() as sent:
            token = issued(there, a_token())
            deadline.serving.clear()
            assert is_refused(here.validate_token, token)
        assert sent.numbers == (1, 0)

    def test_the_local_answer_stands_while_the_other_one_hangs(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, here = pair.of(tokens.Provider)
        (node, _) = pair.regions.nodes
        issued(there, a_token())  # prepared
        with pair.regions.held():
            found, late = issued(there, a_token()), issued(there, a_token())
            here.validate_token(found)
            monkeypatch.setattr(escalation, 'WITHIN', 0.5)
            monkeypatch.setattr(escalation, 'HOLDS', float(faults.PATIENCE))
            node.pause()
            try:
                with pair.counted() as sent:
                    assert is_refused(here.validate_token, late)
                    asked = len(sent.there)
                    assert asked
                    # At once: nobody is asked.
                    assert is_refused(here.validate_token, late)
                    assert sent.numbers == (2, asked)
            finally:
                node.resume()
            # The own session has not heard of it.
            assert not pair.here.sessions.outage.kinds
            assert pair.here.escalation is not None
            (other,) = pair.here.escalation.there.values()

            def is_found() -> bool:
                other.held_until = 0.0
                return not is_refused(here.validate_token, late)

            until(is_found, 'the other region is asked again')

    def test_each_process_asks_after_a_fork(self, pair: Pair) -> None:
        there, here = pair.of(tokens.Provider)
        results = processes.Queue()
        with pair.regions.held():
            token = issued(there, a_token())
            expected = here.validate_token(token)
            child = processes.Process(
                target=lambda: results.put(here.validate_token(token))
            )
            child.start()
            try:
                assert results.get(timeout=faults.PATIENCE) == expected
                child.join(faults.PATIENCE)
                assert child.exitcode == 0
            finally:
                child.kill()
            assert here.validate_token(token) == expected

    def test_a_process_that_has_asked_ends(self, pair: Pair) -> None:
        there, _ = pair.of(tokens.Provider)
        section = keystone.conf.CONF.cassandra
        node = pair.regions.nodes[1]
        model = a_token()
        with pair.regions.held():
            done = subprocess.run(
                [
                    *(sys.executable, '-c', SERVER),
                    *(node.address, str(section.port), section.keyspace),
                    *(node.datacenter, issued(there, model)),
                ],
                stdout=subprocess.PIPE,
                text=True,
                timeout=faults.PATIENCE,
                check=True,
            )
        assert done.stdout.split() == [model.user_id]


#: A server that is asked for one token, and ends.
SERVER = """
import sys

import keystone.conf

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import deadline, escalation
from keystone_cassandra_token.drivers.token import provider

escalation.WITHIN = 60.0
address, port, keyspace, datacenter, token = sys.argv[1:]
conf = keystone.conf.CONF
keystone.conf.configure()
options.register_opts(conf)
conf([], project='keystone', default_config_files=[])
conf.set_override('cassandra_node_ips', [address], 'database')
conf.set_override('port', int(port), 'cassandra')
conf.set_override('keyspace', keyspace, 'cassandra')
conf.set_override('local_dc', datacenter, 'cassandra')
deadline.serving.set()
print(provider.Provider().validate_token(token)[0])
"""

Find = Callable[[Any, str, str], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What has an id and a name.

    :ivar entity: its table.
    :ivar make: makes one by a driver, of its id and its name.
    :ivar finds: finds it, raises or returns nothing.
    """

    driver: type[Driver]
    entity: Entity
    make: Callable[[Any, str, str], object]
    delete: Callable[[Any, str], object]
    finds: dict[str, Find]


def credential_of(user_id: str, name: str) -> dict[str, Any]:
    return {
        'id': user_id,
        'user_id': user_id,
        'project_id': 'p',
        'name': name,
        'secret': 'secret',
    }


def federated(name: str) -> dict[str, str]:
    return {
        'idp_id': 'idp',
        'protocol_id': 'saml2',
        'unique_id': name,
        'display_name': name,
    }


def by_name(driver: Any, user_id: str, name: str) -> Any:
    hints = Hints()
    hints.add_filter('name', name.upper())
    return driver.list_application_credentials_for_user(user_id, hints)


KINDS = {
    'user': Kind(
        Identity,
        users.USERS.entity,
        lambda driver, user_id, name: driver.create_user(
            user_id,
            {'name': name, 'domain_id': 'd', 'password': 'p', 'enabled': True},
        ),
        lambda driver, user_id: driver.delete_user(user_id),
        {
            'by id': lambda driver, user_id, _: driver.get_user(user_id),
            'by name': lambda driver, _, name: driver.get_user_by_name(
                name.upper(), 'd'
            ),
            'password': lambda driver, user_id, _: driver.authenticate(
                user_id, 'p'
            ),
        },
    ),
    'group': Kind(
        Identity,
        groups.GROUPS.entity,
        lambda driver, group_id, name: driver.create_group(
            group_id, {'name': name, 'domain_id': 'd'}
        ),
        lambda driver, group_id: driver.delete_group(group_id),
        {
            'by id': lambda driver, group_id, _: driver.get_group(group_id),
            'by name': lambda driver, _, name: driver.get_group_by_name(
                name, 'd'
            ),
        },
    ),
    'domain': Kind(
        Resource,
        projects.PROJECTS.entity,
        lambda driver, domain_id, name: driver.create_project(
            domain_id,
            {
                'name': name,
                'domain_id': None,
                'parent_id': None,
                'is_domain': True,
            },
        ),
        lambda driver, domain_id: driver.delete_project(domain_id),
        {
            'by id': lambda driver, domain_id, _: driver.get_project(
                domain_id
            ),
            'by name': lambda driver, _, name: driver.get_project_by_name(
                name, None
            ),
        },
    ),
    'application credential': Kind(
        application_credential.ApplicationCredential,
        application_credential.CREDENTIALS.entity,
        lambda driver, user_id, name: driver.create_application_credential(
            credential_of(user_id, name), []
        ),
        lambda driver, one: driver.delete_application_credential(one),
        {
            'by id': lambda driver, one, _: driver.get_application_credential(
                one
            ),
            'secret': lambda driver, one, _: (
                driver.authenticate(one, 'secret') or True
            ),
            'by name': by_name,
        },
    ),
    'access rule': Kind(
        application_credential.ApplicationCredential,
        application_credential.ACCESS_RULES.entity,
        # As an application credential makes those that the user lacks.
        lambda driver, rule_id, name: (
            application_credential.ACCESS_RULES.create(
                driver.db,
                application_credential.ACCESS_RULES.entity.new(
                    {
                        'id': rule_id,
                        'user_id': 'u',
                        'service': 's',
                        'path': name,
                        'method': 'GET',
                    }
                ),
            )
        ),
        lambda driver, rule_id: application_credential.ACCESS_RULES.remove(
            driver.db, rule_id
        ),
        {'by id': lambda driver, one, _: driver.get_access_rule(one)},
    ),
    'credential': Kind(
        credential.Credential,
        credential.CREDENTIALS,
        lambda driver, one, name: driver.create_credential(
            one,
            {
                'id': one,
                'user_id': 'u',
                'type': 'ec2',
                'encrypted_blob': name,
                'key_hash': 'k',
            },
        ),
        lambda driver, one: driver.delete_credential(one),
        {'by id': lambda driver, one, _: driver.get_credential(one)},
    ),
    'federated user': Kind(
        ShadowUsers,
        users.USERS.entity,
        lambda driver, _, name: driver.create_federated_user(
            'd', federated(name)
        ),
        lambda driver, user_id: driver.delete_user(user_id),
        {
            'by identity': lambda driver, _, name: driver.get_federated_user(
                'idp', 'saml2', name
            )
        },
    ),
    'role': Kind(
        Role,
        role.ROLES.entity,
        lambda driver, one, name: driver.create_role(
            one, {'id': one, 'name': name, 'domain_id': None}
        ),
        lambda driver, one: driver.delete_role(one),
        {
            'by id': lambda driver, one, _: driver.get_role(one),
            'by id, when all were read': lambda driver, one, _: (
                driver.list_implied_roles('r') or driver.get_role(one)
            ),
        },
    ),
    'region': Kind(
        Catalog,
        regions.REGIONS,
        lambda driver, one, _: driver.create_region(
            {'id': one, 'description': '', 'parent_region_id': None}
        ),
        lambda driver, one: driver.delete_region(one),
        {'by id': lambda driver, one, _: driver.get_region(one)},
    ),
    'service': Kind(
        Catalog,
        endpoints.SERVICES,
        lambda driver, one, name: driver.create_service(
            one, {'id': one, 'type': name, 'enabled': True}
        ),
        lambda driver, one: driver.delete_service(one),
        {'by id': lambda driver, one, _: driver.get_service(one)},
    ),
    'endpoint': Kind(
        Catalog,
        endpoints.ENDPOINTS,
        lambda driver, one, name: (
            driver.create_service(name, {'id': name, 'type': 't'})
            and driver.create_endpoint(
                one,
                {
                    'id': one,
                    'service_id': name,
                    'interface': 'public',
                    'url': 'http://127.0.0.1',
                },
            )
        ),
        lambda driver, one: driver.delete_endpoint(one),
        {'by id': lambda driver, one, _: driver.get_endpoint(one)},
    ),
    'endpoint group': Kind(
        Catalog,
        endpoints.GROUPS,
        lambda driver, one, name: driver.create_endpoint_group(
            one, {'id': one, 'name': name, 'filters': {}}
        ),
        lambda driver, one: driver.delete_endpoint_group(one),
        {'by id': lambda driver, one, _: driver.get_endpoint_group(one)},
    ),
    'policy': Kind(
        policy.Policy,
        policy.POLICIES,
        lambda driver, one, _: driver.create_policy(
            one, {'id': one, 'blob': '{}', 'type': 'application/json'}
        ),
        lambda driver, one: driver.delete_policy(one),
        {'by id': lambda driver, one, _: driver.get_policy(one)},
    ),
    'identity provider': Kind(
        federation.Federation,
        federation.IDPS.entity,
        lambda driver, one, name: driver.create_idp(
            one,
            {
                'domain_id': 'd',
                'enabled': True,
                'description': None,
                'authorization_ttl': None,
                'remote_ids': [name],
            },
        ),
        lambda driver, one: driver.delete_idp(one),
        {
            'by id': lambda driver, one, _: driver.get_idp(one),
            'by remote id': lambda driver, _, name: (
                driver.get_idp_from_remote_id(name)
            ),
        },
    ),
    'mapping': Kind(
        federation.Federation,
        federation.MAPPINGS,
        lambda driver, one, _: driver.create_mapping(one, {'rules': []}),
        lambda driver, one: driver.delete_mapping(one),
        {'by id': lambda driver, one, _: driver.get_mapping(one)},
    ),
    'service provider': Kind(
        federation.Federation,
        federation.SPS,
        lambda driver, one, _: driver.create_sp(
            one,
            {
                'auth_url': 'http://127.0.0.1',
                'sp_url': 'http://127.0.0.1',
                'enabled': True,
                'description': None,
                'relay_state_prefix': '',
            },
        ),
        lambda driver, one: driver.delete_sp(one),
        {'by id': lambda driver, one, _: driver.get_sp(one)},
    ),
}
CASES = [(kind, find) for kind, of in KINDS.items() for find in of.finds]


def is_found(find: Callable[[], Any]) -> bool:
    try:
        return bool(find())
    except (exception.NotFound, AssertionError):
        return False


class TestEntities:
    @pytest.mark.parametrize(('kind', 'find'), CASES)
    def test_it_is_found(self, pair: Pair, kind: str, find: str) -> None:
        of = KINDS[kind]
        given = uuid.uuid4().hex, f'n{uuid.uuid4().hex}'
        with pair.made(of, *given) as here:
            with pair.counted() as sent, remembered.within_request():
                for _ in range(2):
                    assert is_found(lambda: of.finds[find](here, *given))
            # It is asked for once; beside it whether it was deleted.  Where
            # all agree on a name, it has not arrived here either.
            claims = find == 'by remote id'
            assert len(sent.there) == 1 + of.entity.is_noted + claims

    def test_a_log_in_asks_once(self, pair: Pair) -> None:
        of = KINDS['user']
        given = uuid.uuid4().hex, f'n{uuid.uuid4().hex}'
        with pair.made(of, *given) as here:
            with pair.counted() as sent, remembered.within_request():
                found = here.get_user_by_name(given[1], 'd')
                assert here.authenticate(found['id'], 'p')
                assert here.get_user(found['id']) == found
                assert here.list_groups_for_user(found['id'], Hints()) == []
            assert len(sent.there) == 1

    @pytest.mark.parametrize(('kind', 'find'), CASES)
    def test_what_was_deleted_here_is_not(
        self, pair: Pair, kind: str, find: str
    ) -> None:
        """The other region has not heard of it."""
        of = KINDS[kind]
        there, here = pair.of(of.driver)
        given = uuid.uuid4().hex, f'n{uuid.uuid4().hex}'
        of.make(there, *given)
        deleting = copy.copy(here)
        deleting.db = alone(here.db)
        with pair.regions.held():
            of.delete(deleting, id_of(of, given))
            assert is_found(lambda: of.finds[find](there, *given))
            assert not is_found(lambda: of.finds[find](here, *given))

    @pytest.mark.parametrize(('kind', 'find'), CASES)
    def test_what_is_older_is_not(
        self,
        pair: Pair,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        find: str,
    ) -> None:
        of = KINDS[kind]
        given = uuid.uuid4().hex, f'n{uuid.uuid4().hex}'
        with pair.made(of, *given) as here:
            grow_old(monkeypatch)
            assert not is_found(lambda: of.finds[find](here, *given))

    def test_a_change_seeks_nothing(self, pair: Pair) -> None:
        of = KINDS['user']
        given = uuid.uuid4().hex, f'n{uuid.uuid4().hex}'
        with pair.made(of, *given) as here:
            with (
                pair.counted() as sent,
                pytest.raises(exception.UserNotFound),
            ):
                here.update_user(given[0], {'enabled': False})
            assert sent.there == []

    def test_regions_that_go_together_are_not(self, pair: Pair) -> None:
        """What is deleted in one batch is noted, too."""
        there, here = pair.of(Catalog)
        above, below = uuid.uuid4().hex, uuid.uuid4().hex
        for region_id, parent_id in ((above, None), (below, above)):
            there.create_region(
                {
                    'id': region_id,
                    'description': '',
                    'parent_region_id': parent_id,
                }
            )
        deleting = copy.copy(here)
        deleting.db = alone(here.db)
        with pair.regions.held():
            deleting.delete_region(above)
            for region_id in (above, below):
                assert there.get_region(region_id)
                assert not is_found(
                    functools.partial(here.get_region, region_id)
                )


def id_of(kind: Kind, given: tuple[str, str]) -> str:
    """Return the id of what was made; that of some is computed."""
    if kind.driver is not ShadowUsers:
        return given[0]
    local_id = {'domain_id': 'd', 'local_id': given[1], 'entity_type': 'user'}
    generator = two_regions.Generator()
    return str(generator.generate_public_ID(local_id))


def grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = escalation.FRESH + datetime.timedelta(minutes=2)
    real = escalation.clock.utcnow
    monkeypatch.setattr(escalation.clock, 'utcnow', lambda: real() + ahead)


def a_trust() -> dict[str, Any]:
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': 'u2',
        'project_id': 'p',
        'impersonation': False,
        'expires_at': timeutils.utcnow() + datetime.timedelta(hours=1),
        'remaining_uses': None,
    }


class TestTrusts:
    def test_it_is_found_and_used(self, pair: Pair) -> None:
        there, here = pair.of(trust.Trust)
        trust_id = uuid.uuid4().hex
        with pair.regions.held():
            made = there.create_trust(trust_id, a_trust(), [{'id': 'r'}])
            with pair.counted() as sent, remembered.within_request():
                assert here.get_trust(trust_id) == made
                here.consume_use(trust_id)
            assert sent.numbers == (1, 1)

    def test_what_was_deleted_here_is_not(self, pair: Pair) -> None:
        there, here = pair.of(trust.Trust)
        trust_id = uuid.uuid4().hex
        there.create_trust(trust_id, a_trust(), [])
        with pair.regions.held():
            here.delete_trust(trust_id)
            assert there.get_trust(trust_id)
            with pytest.raises(exception.TrustNotFound):
                here.get_trust(trust_id)

    def test_what_is_older_is_not(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, here = pair.of(trust.Trust)
        trust_id = uuid.uuid4().hex
        with pair.regions.held():
            there.create_trust(trust_id, a_trust(), [])
            grow_old(monkeypatch)
            with pytest.raises(exception.TrustNotFound):
                here.get_trust(trust_id)


#: How often each is invented.
MANY = 1000


def invented_token(pair: Pair) -> str:
    return tokens.IDS.make(
        keystone.conf.CONF, pair.there.sessions.get().local_dc
    )


def invented(pair: Pair) -> dict[str, Callable[[str], Any]]:
    """Return what is asked for what, given a random text."""
    _, provider = pair.of(tokens.Provider)
    _, trusts = pair.of(trust.Trust)
    _, identity = pair.of(Identity)
    _, credentials = pair.of(application_credential.ApplicationCredential)
    _, keys = pair.of(credential.Credential)
    _, roles = pair.of(Role)
    return {
        'tokens, random': lambda _: provider.validate_token(
            tokens.PREFIX + secrets.token_urlsafe(32)
        ),
        'tokens that name the other region': lambda _: provider.validate_token(
            invented_token(pair)
        ),
        'trusts': lambda x: trusts.get_trust(x),
        'names of users': lambda x: identity.get_user_by_name(x, 'd'),
        'application credentials': lambda x: credentials.authenticate(x, 'x'),
        'EC2 credentials': lambda x: keys.get_credential(x),
        'roles': lambda x: roles.get_role(x),
    }


#: Statements that one which is sought costs the other region at most.
COSTS = {'names of users': 2, 'roles': 2}


def test_what_is_invented_costs_the_other_region_little(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = keystone.conf.CONF.cassandra.escalation_rate
    # No time passes: nothing comes into the bucket.
    monkeypatch.setattr(
        escalation,
        'Bucket',
        functools.partial(escalation.Bucket, lambda: 0.0),
    )
    print(f'\n{MANY} invented, {rate:g} a second:')
    for what, ask in invented(pair).items():
        assert pair.here.escalation is not None
        pair.here.escalation.close()
        pair.here.escalation.begin()
        pair.asked.sessions.get()
        with pair.counted() as sent:
            for _ in range(MANY):
                assert not is_found(functools.partial(ask, uuid.uuid4().hex))
        here, there = sent.numbers
        print(f'{what}: {here} statements here, {there} there')
        assert there <= 2 * rate * COSTS.get(what, 1)
        assert (there > 0) == (what != 'tokens, random')


def test_invented_tokens_cost_nothing_with_tags(pair: Pair) -> None:
    connection = pair.there.sessions.get()
    without_key = [
        tokens.IDS.make(keystone.conf.CONF, connection.local_dc)
        for _ in range(MANY)
    ]
    _, here = pair.of(tokens.Provider)
    with (
        overridden('cassandra', token_key=KEY, accept_untagged_ids=False),
        pair.counted() as sent,
    ):
        for each in without_key:
            assert is_refused(here.validate_token, each)
    assert sent.numbers == (0, 0)
