# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra doctor``: what would go wrong, before it does.

Each check says one line or more; one that cannot be made says so, and the
others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import cluster_checks, local_checks
from keystone_cassandra_token.db import errors, nodes
from keystone_cassandra_token.db.findings import Finding, State, fail
from keystone_cassandra_token.schema import ddl

LOCAL = (
    local_checks.configuration,
    local_checks.sections,
    local_checks.driver,
)


def run(conf: cfg.ConfigOpts, report: Callable[[str], None] = print) -> int:
    """Make all checks; return how many results are failures."""
    failures = 0
    for result in examine(conf):
        report(str(result))
        failures += result.state is State.FAIL
    return failures


def examine(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Yield the results of all checks."""
    for check in LOCAL:
        yield from _guarded(check, conf)
    try:
        with ddl.connected(conf) as connection:
            nodes.reach_all(connection)
            for cluster_check in cluster_checks.CHECKS:
                yield from _guarded(cluster_check, connection, conf)
    except (options.ConfigurationError, cfg.Error, ValueError) as error:
        yield fail(
            'connection', f'{error} Nothing of the cluster was checked.'
        )
    except errors.StoreUnavailable as error:
        yield fail(
            'connection', f'{error.reason} Nothing of the cluster was checked.'
        )


def _guarded(
    check: Callable[..., Iterator[Finding]], *arguments: Any
) -> Iterator[Finding]:
    name = check.__name__
    try:
        yield from check(*arguments)
    except errors.StoreUnavailable as error:
        yield fail(name, f'could not be checked: {error.reason}')
    except errors.DRIVER_ERRORS as error:
        yield fail(name, f'could not be checked: {errors.explain(error)}')
    except Exception as error:  # a check that breaks must not hide others
        yield fail(name, f'could not be checked: {type(error).__name__}')
