# SPDX-License-Identifier: Apache-2.0
"""What all drivers share: the process's store."""

from __future__ import annotations

import contextlib

import keystone.conf
from oslo_config import cfg
from oslo_log import log

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import schema
from keystone_cassandra_token.db import metrics, outage
from keystone_cassandra_token.db.store import Store

LOG = log.getLogger(__name__)

_shared: dict[int, Store] = {}


def shared(conf: cfg.ConfigOpts) -> Store:
    """Return the process's store for ``conf``; nothing is opened yet."""
    store = _shared.get(id(conf))
    if store is None:
        options.register_opts(conf)
        outage.quieten()
        # Where a value cannot be read, each request that connects says so.
        with contextlib.suppress(cfg.Error, ValueError):
            metrics.start(conf[options.GROUP].metrics_dir)
        for text in options.unknown(conf):
            LOG.warning(text)
        store = _shared[id(conf)] = Store(conf, verify=schema.check)
    return store


class Driver:
    """What all drivers share: the store, as ``self.db``."""

    def __init__(self) -> None:
        self.conf = keystone.conf.CONF
        self.db = shared(self.conf)
        super().__init__()
