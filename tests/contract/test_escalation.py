# SPDX-License-Identifier: Apache-2.0
"""With one datacenter nothing is sought elsewhere, and nothing is opened."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable

import pytest
from keystone import exception
from keystone.common.driver_hints import Hints

from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import (
    application_credential,
    credential,
    policy,
    trust,
)
from keystone_cassandra_token.drivers.assignment.role import Role
from keystone_cassandra_token.drivers.catalog.driver import Catalog
from keystone_cassandra_token.drivers.identity import federation
from keystone_cassandra_token.drivers.identity.driver import Identity
from keystone_cassandra_token.drivers.identity.shadow_users import ShadowUsers
from keystone_cassandra_token.drivers.resource.driver import Resource
from keystone_cassandra_token.drivers.token import provider, receipt
from keystone_cassandra_token.tables import removals
from tests.fault import faults


def by_name(user_id: str) -> object:
    hints = Hints()
    hints.add_filter('name', 'a')
    driver = application_credential.ApplicationCredential()
    return driver.list_application_credentials_for_user(user_id, hints)


ABSENT: dict[str, Callable[[str], object]] = {
    'token': lambda x: provider.Provider().validate_token(f'kc1_{x}{x[:11]}'),
    'receipt': lambda x: receipt.Provider().validate_receipt(
        f'kr1_{x}{x[:11]}'
    ),
    'trust': lambda x: trust.Trust().get_trust(x),
    'use of a trust': lambda x: trust.Trust().consume_use(x),
    'application credential': lambda x: (
        application_credential.ApplicationCredential().authenticate(x, 'x')
    ),
    'one to be shown': lambda x: (
        application_credential.ApplicationCredential().get_application_credential(
            x
        )
    ),
    'one by name': by_name,
    'user': lambda x: Identity().get_user(x),
    'user by name': lambda x: Identity().get_user_by_name(x, 'default'),
    'password': lambda x: Identity().authenticate(x, 'x'),
    'groups of a user': lambda x: Identity().list_groups_for_user(x, Hints()),
    'shadow user': lambda x: ShadowUsers().get_user(x),
    'group': lambda x: Identity().get_group(x),
    'group by name': lambda x: Identity().get_group_by_name(x, 'default'),
    'project': lambda x: Resource().get_project(x),
    'project by name': lambda x: Resource().get_project_by_name(x, 'default'),
    'credential': lambda x: credential.Credential().get_credential(x),
    'access rule': lambda x: (
        application_credential.ApplicationCredential().get_access_rule(x)
    ),
    'federated user': lambda x: ShadowUsers().get_federated_user('i', 'p', x),
    'role': lambda x: Role().get_role(x),
    'region': lambda x: Catalog().get_region(x),
    'service': lambda x: Catalog().get_service(x),
    'endpoint': lambda x: Catalog().get_endpoint(x),
    'endpoint group': lambda x: Catalog().get_endpoint_group(x),
    'policy': lambda x: policy.Policy().get_policy(x),
    'identity provider': lambda x: federation.Federation().get_idp(x),
    'one by remote id': lambda x: (
        federation.Federation().get_idp_from_remote_id(x)
    ),
    'protocol': lambda x: federation.Federation().get_protocol(x, 'p'),
    'mapping': lambda x: federation.Federation().get_mapping(x),
    'service provider': lambda x: federation.Federation().get_sp(x),
    'domain by name': lambda x: Resource().get_project_by_name(x, None),
}


def sent_for(store: Store, call: Callable[[str], object]) -> list[object]:
    with (
        faults.counted(store) as sent,
        # Application credentials and receipts are refused in their own ways.
        contextlib.suppress(exception.Error, AssertionError),
    ):
        assert call(uuid.uuid4().hex) == []
    return list(sent)


@pytest.mark.parametrize('what', ABSENT)
def test_the_only_datacenter_reads_what_it_did(
    store: Store, serving: None, what: str
) -> None:
    escalation = store.escalation
    assert escalation is not None
    store.sessions.get()  # else what its thread says is among the first
    found = sent_for(store, ABSENT[what])
    assert found
    assert escalation.there == {}
    store.escalation = None
    try:
        assert sent_for(store, ABSENT[what]) == found
    finally:
        store.escalation = escalation


def test_the_only_datacenter_notes_no_deletion(store: Store) -> None:
    role_id = uuid.uuid4().hex
    new = {'id': role_id, 'name': role_id, 'domain_id': None}
    Role().create_role(role_id, new)
    with faults.counted(store) as sent:
        Role().delete_role(role_id)
    assert sent
    assert not any(removals.NOTE in each for each in sent)
