# SPDX-License-Identifier: Apache-2.0
"""``oslo.middleware`` health check: can this server read from Cassandra?

Name it in ``[healthcheck] backends``; a load balancer then removes a server
that cannot reach Cassandra.
"""

from __future__ import annotations

import keystone.conf
from oslo_middleware.healthcheck import pluginbase

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.base import shared


class Cassandra(pluginbase.HealthcheckBaseExtension):
    """Available while a read of a known row succeeds."""

    def healthcheck(
        self, server_port: int | None = None
    ) -> pluginbase.HealthcheckResult:
        try:
            revocation_ttl.RevocationTTL(shared(keystone.conf.CONF)).current()
        except errors.StoreUnavailable:
            # Why is in the log: anonymous callers see this answer.
            return pluginbase.HealthcheckResult(
                available=False, reason='Cassandra is not available'
            )
        return pluginbase.HealthcheckResult(
            available=True, reason='Cassandra is available'
        )
