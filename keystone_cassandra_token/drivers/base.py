# SPDX-License-Identifier: Apache-2.0
"""What all drivers share: the process's store."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import keystone.conf
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import schema
from keystone_cassandra_token.compat import settings
from keystone_cassandra_token.compat.caches import KeystoneCaches
from keystone_cassandra_token.db import (
    errors,
    escalation,
    following,
    metrics,
    nodes,
    outage,
    timeouts,
)
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

_shared: dict[int, Store] = {}

#: Asked when a user logs in, before that is read with which its credentials
#: are compared: each is given the store and the id of the user, and returns
#: the future of whether it must not have been read before.  Set by who needs
#: it, in another area of drivers.
log_in_begins: list[Callable[[Store, str], Future[bool]]] = []


def shared(conf: cfg.ConfigOpts) -> Store:
    """Return the process's store for ``conf``; nothing is opened yet."""
    known = _shared.get(id(conf))
    if known is not None:
        return known
    options.register_opts(conf)
    outage.quieten()
    # Where a value cannot be read, each request that connects says so.
    with contextlib.suppress(cfg.Error, ValueError):
        metrics.start(conf[options.GROUP].metrics_dir)
    for text in options.unknown(conf):
        LOG.warning(text)
    caches = KeystoneCaches(conf)

    def verify(connection: Connection, section: Mapping[str, Any]) -> None:
        _check(connection, section)
        following.start(
            store, connection, caches, lambda: settings.common(conf)
        )
        escalation.start(store, connection)

    store = _shared[id(conf)] = Store(conf, verify=verify)
    store.escalation = escalation.Escalation(store)
    return store


def connect_soon() -> None:
    """Connect the stores of this process, in threads; do not wait."""
    for store in _shared.values():
        threading.Thread(
            target=_connect, args=(store,), name='cassandra', daemon=True
        ).start()


def _connect(store: Store) -> None:
    # Who needs it next is told what is wrong.
    with contextlib.suppress(errors.StoreUnavailable):
        store.sessions.get()


def _check(connection: Connection, section: Mapping[str, Any]) -> None:
    """Check a new connection; see :class:`~..db.session.Sessions`."""
    schema.check(connection, section)
    # The doctor asks all nodes; a role that may not read settings has been
    # told so by it.
    with contextlib.suppress(*errors.DRIVER_ERRORS):
        text = timeouts.shorter(
            section, functools.partial(nodes.own_setting, connection)
        )
        if text is not None:
            LOG.warning('Cassandra: %s', text)


class Driver:
    """What all drivers share: the store, as ``self.db``."""

    def __init__(self) -> None:
        self.conf = keystone.conf.CONF
        self.db = shared(self.conf)
        super().__init__()
