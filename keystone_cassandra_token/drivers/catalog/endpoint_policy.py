# SPDX-License-Identifier: Apache-2.0
"""``keystone.endpoint_policy`` on Cassandra.

``policy_association`` says which policy an endpoint, a service, or a service
in a region has.  There are hundreds at most, in one partition.  The id is
made of what has the policy, so that each has one.
"""

from __future__ import annotations

import json
from typing import Any

from keystone import exception
from keystone.endpoint_policy.backends import base

from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.db.rows import Row, text
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables import batches
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Indexes

_TARGET = ('endpoint_id', 'service_id', 'region_id')

ASSOCIATION = Row(
    id=text,  # made of what has the policy
    policy_id=text(64, required=True),
    endpoint_id=text(64),
    service_id=text(64),
    region_id=text(64),
)
ASSOCIATIONS = Entity(
    'policy_association',
    ASSOCIATION,
    Indexes(),
    told=[],
    guarded=['policy_id'],  # a deletion means one with this policy
    everywhere=True,
    single_partition=True,
)

Association = dict[str, Any]


class EndpointPolicy(Driver, base.EndpointPolicyDriverBase):
    """Associations of policies with endpoints in Cassandra."""

    def create_policy_association(
        self,
        policy_id: str,
        endpoint_id: str | None = None,
        service_id: str | None = None,
        region_id: str | None = None,
    ) -> None:
        target = _target(endpoint_id, service_id, region_id)
        new = ASSOCIATIONS.new({**target, 'policy_id': policy_id})
        lengths.check(new, ASSOCIATION, 'policy_association')
        attempts = ASSOCIATIONS.attempts(endpoint_id or service_id)
        while attempts.another():
            if ASSOCIATIONS.create(self.db, new):
                return
            # What has a policy already gets another one.
            if ASSOCIATIONS.change(
                self.db, new['id'], {'policy_id': policy_id}
            ):
                return

    def check_policy_association(
        self,
        policy_id: str,
        endpoint_id: str | None = None,
        service_id: str | None = None,
        region_id: str | None = None,
    ) -> None:
        found = self._find(endpoint_id, service_id, region_id)
        if found is None or found['policy_id'] != policy_id:
            raise exception.PolicyAssociationNotFound()

    def delete_policy_association(
        self,
        policy_id: str,
        endpoint_id: str | None = None,
        service_id: str | None = None,
        region_id: str | None = None,
    ) -> None:
        found = self._find(endpoint_id, service_id, region_id)
        if found is not None and found['policy_id'] == policy_id:
            ASSOCIATIONS.discard(self.db, found)

    def get_policy_association(
        self,
        endpoint_id: str | None = None,
        service_id: str | None = None,
        region_id: str | None = None,
    ) -> dict[str, tuple[str]]:
        found = self._find(endpoint_id, service_id, region_id)
        if found is None:
            raise exception.PolicyAssociationNotFound()
        return {'policy_id': (found['policy_id'],)}  # as the SQL driver

    def list_associations_for_policy(
        self, policy_id: str
    ) -> list[Association]:
        return [
            {name: found[name] for name in ('policy_id', *_TARGET)}
            for found in self._having('policy_id', policy_id)
        ]

    def delete_association_by_endpoint(self, endpoint_id: str) -> None:
        self._delete_having('endpoint_id', endpoint_id)

    def delete_association_by_service(self, service_id: str) -> None:
        self._delete_having('service_id', service_id)

    def delete_association_by_region(self, region_id: str) -> None:
        self._delete_having('region_id', region_id)

    def delete_association_by_policy(self, policy_id: str) -> None:
        # One that has got another policy meanwhile stays.
        found = self._having('policy_id', policy_id)
        for _ in batches.discard_all(self.db, ASSOCIATIONS, found):
            pass

    def _find(self, *target: str | None) -> Association | None:
        return ASSOCIATIONS.find(self.db, _target(*target)['id'])

    def _having(self, name: str, value: str) -> list[Association]:
        return [
            association
            for association in ASSOCIATIONS.all(self.db)
            if association[name] == value
        ]

    def _delete_having(self, name: str, value: str) -> None:
        for found in self._having(name, value):
            ASSOCIATIONS.remove(self.db, found['id'])


def _target(*target: str | None) -> dict[str, Any]:
    """Return the columns that say what has a policy."""
    return {
        'id': json.dumps(target),
        **dict(zip(_TARGET, target, strict=True)),
    }
