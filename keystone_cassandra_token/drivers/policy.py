# SPDX-License-Identifier: Apache-2.0
"""``keystone.policy`` on Cassandra: blobs that Keystone keeps for others.

There are hundreds at most, in one partition, ``policy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone import exception
from keystone.common.rbac_enforcer import policy as rules
from keystone.policy.backends import base
from oslo_log import log

from keystone_cassandra_token.compat import extras
from keystone_cassandra_token.compat.conflicts import duplicate
from keystone_cassandra_token.db.rows import Row, json_map, json_text, text
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Indexes

LOG = log.getLogger(__name__)

POLICY = Row(
    id=text(64),
    blob=json_text,
    type=text(255, required=True),
    extra=json_map,
)
POLICIES = Entity(
    'policy',
    POLICY,
    Indexes(),
    told=[],
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
)


class Policy(Driver, base.PolicyDriverBase):
    """Policies in Cassandra."""

    def enforce(
        self, credentials: Mapping[str, Any], action: str, target: Any
    ) -> None:
        LOG.debug('enforce %s', action)
        rules.enforce(credentials, action, target)

    def create_policy(
        self, policy_id: str, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        new = POLICIES.new(_to_row(policy))
        if not POLICIES.create(self.db, new):
            # Keystone calls a policy by its name if it has one.
            if name := policy.get('name'):
                raise duplicate('policy', 'name', name)
            raise duplicate('policy', 'ID', new['id'])
        return _to_ref(new)

    def list_policies(self) -> list[dict[str, Any]]:
        return [_to_ref(policy) for policy in POLICIES.all(self.db)]

    def get_policy(self, policy_id: str | tuple[str]) -> dict[str, Any]:
        if not isinstance(policy_id, str):
            # As the drivers of endpoint policies give it.
            (policy_id,) = policy_id
        policy = POLICIES.find_anywhere(self.db, policy_id)
        if policy is None:
            raise exception.PolicyNotFound(policy_id=policy_id)
        return _to_ref(policy)

    def update_policy(
        self, policy_id: str, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        changes = _to_row(policy)
        changes.pop('id', None)
        changed = POLICIES.change(self.db, policy_id, changes)
        if changed is None:
            raise exception.PolicyNotFound(policy_id=policy_id)
        return _to_ref(changed)

    def delete_policy(self, policy_id: str) -> None:
        if not POLICIES.remove(self.db, policy_id):
            raise exception.PolicyNotFound(policy_id=policy_id)


def _to_row(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a policy names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(policy, POLICY, 'policy')


def _to_ref(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy as the SQL driver returns it."""
    return extras.to_ref(policy, POLICY)
