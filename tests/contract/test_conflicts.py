# SPDX-License-Identifier: Apache-2.0
"""A conflict over a name: what the client is told, and what the log says."""

import logging
import uuid

import pytest
from keystone import exception
from keystone.resource.backends.base import NULL_DOMAIN_ID

from keystone_cassandra_token.compat import conflicts
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.limit import driver as limit
from keystone_cassandra_token.drivers.resource import driver as resource
from tests.contract import damage

pytestmark = pytest.mark.usefixtures('conf')


def domain(**given):
    values = {'is_domain': True, 'domain_id': NULL_DOMAIN_ID, **given}
    values |= {'parent_id': None}
    resource.Resource().create_project(values['id'], values)


def registered_limit(**given):
    values = {'default_limit': 1, 'region_id': None, **given}
    limit.UnifiedLimit().create_registered_limits([values])


def one_limit(**given):
    values = {'resource_limit': 1, 'region_id': None, **given}
    limit.UnifiedLimit().create_limits([values])


MAKER = damage.Maker()

#: What makes an entity, its table of claims, what is unique in it.
MAKERS = [
    (MAKER.user, 'user_claim', ('name', 'domain_id')),
    (MAKER.federated_user, 'federated_claim', ('unique_id',)),
    (MAKER.nonlocal_user, 'nonlocal_claim', ('name', 'domain_id')),
    (MAKER.group, 'group_claim', ('name', 'domain_id')),
    (MAKER.role, 'role_claim', ('name', 'domain_id')),
    (
        MAKER.application_credential,
        'application_credential_claim',
        ('name', 'user_id'),
    ),
    (MAKER.identity_provider, 'remote_id_claim', ('remote_id',)),
    (domain, 'project_claim', ('name',)),
    (
        registered_limit,
        'registered_limit_claim',
        ('service_id', 'resource_name'),
    ),
]


@pytest.fixture
def told(caplog):
    """Return a function that makes a second entity with a first one's name.

    It returns what the client is told, and what stands in the log.
    """

    def make(maker, first, **unique):
        maker(id=first, **unique)
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, conflicts.__name__),
            pytest.raises(exception.Conflict) as raised,
        ):
            maker(id=uuid.uuid4().hex, **unique)
        lines = [
            record.getMessage()
            for record in caplog.records
            if record.name == conflicts.__name__
        ]
        assert {record.levelno for record in caplog.records} == {logging.INFO}
        assert len(lines) == 1
        return str(raised.value), lines[0]

    return make


def check(said, logged, table, owner):
    assert table in logged
    assert owner in logged
    for secret in (owner, table, 'claim'):
        assert secret not in said


@pytest.mark.parametrize(
    ('maker', 'table', 'unique'), MAKERS, ids=[table for _, table, _ in MAKERS]
)
def test_the_log_names_who_has_it(told, maker, table, unique):
    owner = uuid.uuid4().hex
    said, logged = told(maker, owner, **damage.fresh(*unique))
    check(said, logged, table, owner)


def test_of_a_trust(told):
    names = ('trustor_user_id', 'trustee_user_id', 'project_id')
    owner = uuid.uuid4().hex
    said, logged = told(
        MAKER.trust,
        owner,
        expires_at=clock.utcnow() + damage.HOUR,
        **damage.fresh(*names),
    )
    check(said, logged, 'trust_claim', owner)


def test_of_a_limit(told):
    called = damage.fresh('service_id', 'resource_name')
    registered_limit(id=uuid.uuid4().hex, **called)
    owner, project_id = uuid.uuid4().hex, uuid.uuid4().hex
    said, logged = told(one_limit, owner, project_id=project_id, **called)
    check(said, logged, 'limit_claim', owner)


def test_an_id_that_is_in_use_is_no_claim(caplog):
    values = damage.fresh('id', 'domain_id')
    MAKER.group(**values)
    with (
        caplog.at_level(logging.INFO, conflicts.__name__),
        pytest.raises(exception.Conflict),
    ):
        MAKER.group(**values)
    assert not caplog.records


@pytest.mark.parametrize(
    ('given', 'details'),
    [
        ((), 'Duplicate entry.'),
        (('ID', 'x1'), 'Duplicate entry found with ID x1.'),
        (('name', 'cloud'), 'Duplicate entry found with name cloud.'),
    ],
)
def test_what_a_client_is_told(given, details):
    said = str(conflicts.duplicate('thing', *given))
    assert said == f'Conflict occurred attempting to store thing - {details}'
