# SPDX-License-Identifier: Apache-2.0
"""``oslo.middleware`` health check: can this server read from Cassandra?

Name it in ``[healthcheck] backends``; a load balancer then removes a server
that cannot reach Cassandra.
"""

from __future__ import annotations

import keystone.conf
from oslo_middleware.healthcheck import pluginbase

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import deadline, errors
from keystone_cassandra_token.drivers.base import shared

#: Seconds for the answer: a load balancer does not wait for the time-outs of
#: a request.
LIMIT = 1.0


class Cassandra(pluginbase.HealthcheckBaseExtension):
    """Available while a read of a known row succeeds within a second."""

    def healthcheck(
        self, server_port: int | None = None
    ) -> pluginbase.HealthcheckResult:
        try:
            with deadline.within(LIMIT):
                revocation_ttl.RevocationTTL(
                    shared(keystone.conf.CONF)
                ).current()
        except errors.StoreUnavailable:
            # Why stands in the log: anonymous callers see the answer.
            return pluginbase.HealthcheckResult(
                available=False, reason='Cassandra is not available'
            )
        return pluginbase.HealthcheckResult(
            available=True, reason='Cassandra is available'
        )
