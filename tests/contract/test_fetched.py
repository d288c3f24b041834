# SPDX-License-Identifier: Apache-2.0
"""What is told of can be made readable: each kind of entry, on a real node."""

from __future__ import annotations

from typing import Any

import pytest

from keystone_cassandra_token.db import changes
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.assignment import grants
from tests import entities, statements
from tests.fault import faults

_GRANT = {
    'target_id': 'p',
    'actor_id': 'u',
    'type': 'UserProject',
    'inherited': False,
    'role_id': 'r',
}
#: Keys as drivers tell them, of what is no entity: of one row, or of all of
#: a holder.
KEYS: dict[str, list[dict[str, Any]]] = {
    'grant_by_target': [_GRANT, {'target_id': 'p'}],
    'membership_by_user': [
        {'user_id': 'u', 'group_id': 'g'},
        {'user_id': 'u'},
    ],
    'implied_role': [
        {'prior_role_id': 'a', 'implied_role_id': 'b'},
        {'prior_role_id': 'a'},
    ],
    'project_endpoint': [
        {'project_id': 'p', 'endpoint_id': 'e'},
        {'project_id': 'p'},
    ],
    'project_endpoint_group': [
        {'project_id': 'p', 'endpoint_group_id': 'e'},
        {'project_id': 'p'},
    ],
    'expiring_membership': [{'user_id': 'u'}],
    'domain_config': [{'domain_id': 'd'}],
    **{
        name: [dict.fromkeys(entity.told, 'x')]
        for name, entity in entities.ALL.items()
        if entity.told
    },
    'application_credential': [{'id': 'x'}],
}


def test_all_are_here() -> None:
    # It is written, not read: tests/contract/test_told_revocations.py.
    # Tests make entities of their own.
    known = changes.FETCH.keys() & statements.tables().keys()
    assert KEYS.keys() == known - {changes.REVOCATION}


@pytest.mark.parametrize('table', KEYS)
def test_it_is_read_where_all_have_it(store: Store, table: str) -> None:
    with faults.counted(store) as sent:
        changes.FETCH[table](store, KEYS[table])
    assert {each[0].table for each in sent} >= {table}
    for each in sent:
        assert each[0].operation is Operation.ESCALATED_READ


def test_index_rows_of_a_grant_come_along(store: Store) -> None:
    """A settled one is taken at its word."""
    with faults.counted(store) as sent:
        changes.FETCH['grant_by_target'](store, KEYS['grant_by_target'])
    assert (grants.LIST_OF_ACTOR_EVERYWHERE,) in sent
