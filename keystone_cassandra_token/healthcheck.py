# SPDX-License-Identifier: Apache-2.0
"""``oslo.middleware`` health check: can this server read from Cassandra?

Name it in ``[healthcheck] backends``; a load balancer then removes a server
that cannot reach Cassandra.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from typing import Any

import keystone.conf
from oslo_middleware.healthcheck import pluginbase

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers.base import shared
from keystone_cassandra_token.schema import version

#: Seconds for the answer: a load balancer does not wait for the time-outs of
#: a request.
LIMIT = 1.0

_KIND = 'healthcheck'


class Cassandra(pluginbase.HealthcheckBaseExtension):
    """Available while a read of a known row succeeds within a second."""

    def __init__(self, oslo_conf: Any, conf: dict[str, Any]) -> None:
        super().__init__(oslo_conf, conf)
        # Of this process, and at most one: while a node hangs each check
        # would leave a thread behind.
        self._asked: tuple[int, Future[None]] | None = None

    def healthcheck(
        self, server_port: int | None = None
    ) -> pluginbase.HealthcheckResult:
        outage = shared(keystone.conf.CONF).sessions.outage
        try:
            self._ask().result(LIMIT)
        except TimeoutError:
            reason = f'Cassandra did not answer within {LIMIT:.0f} s.'
        except errors.StoreUnavailable as failure:
            reason = failure.reason
        else:
            outage.ended(_KIND)
            return pluginbase.HealthcheckResult(
                available=True, reason='Cassandra is available'
            )
        # Why is for the log: anonymous callers see the answer.
        outage.began(_KIND, reason)
        return pluginbase.HealthcheckResult(
            available=False, reason='Cassandra is not available'
        )

    def _ask(self) -> Future[None]:
        """Return the answer to come of the question that is under way."""
        if self._asked is None or self._asked[0] != os.getpid():
            self._asked = None
        if self._asked is None or self._asked[1].done():
            answer: Future[None] = Future()
            threading.Thread(
                target=_read, args=(answer,), name=_KIND, daemon=True
            ).start()
            self._asked = os.getpid(), answer
        return self._asked[1]


def _read(answer: Future[None]) -> None:
    """Read a row; not by the store, whose turns are those of requests."""
    try:
        connection = shared(keystone.conf.CONF).sessions.get()
        version.setting(connection, revocation_ttl.EVERYWHERE)
    except BaseException as error:
        answer.set_exception(error)
    else:
        answer.set_result(None)
