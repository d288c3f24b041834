# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that need no server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keystone.conf
import pytest
from oslo_config import cfg

from keystone_cassandra_token import conf as options


@pytest.fixture
def make_conf() -> Callable[..., cfg.ConfigOpts]:
    """Return a function that makes options of their own.

    ``make_conf(nodes=['127.0.0.1'], port=1)`` sets options of
    ``[cassandra]``, and ``nodes`` the contact points.
    """

    def make(nodes: list[str] | None = None, **values: Any) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        options.register_opts(conf)
        conf([], project='keystone', default_config_files=[])
        if nodes:
            conf.set_override('cassandra_node_ips', nodes, group='database')
        for name, value in values.items():
            conf.set_override(name, value, group=options.GROUP)
        return conf

    return make


@pytest.fixture
def conf(make_conf: Callable[..., cfg.ConfigOpts]) -> cfg.ConfigOpts:
    """Options with their defaults."""
    return make_conf()


@pytest.fixture
def keystone_options() -> None:
    """Keystone's own options, which some of its exceptions look at."""
    keystone.conf.default.register_opts(keystone.conf.CONF)
