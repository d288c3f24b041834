# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor that need no connection."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from oslo_config import cfg
from oslo_middleware.healthcheck import opts

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import metrics as db_metrics
from keystone_cassandra_token.db import nodes
from keystone_cassandra_token.db.findings import Finding, fail, ok, warn

#: What it means to leave one of them where it is.
_CONSEQUENCES = {
    'keystone.revoke': 'SQL drops events after an hour and a half, and with'
    ' allow_expired a revoked token is accepted again.',
}

_LIBEV = 'cassandra.io.libevreactor'


def configuration(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Every option of this package has a value that can work."""
    name = 'configuration'
    problems = list(options.problems(conf))
    for problem in problems:
        yield fail(name, problem)
    unknown = list(options.unknown(conf))
    for text in unknown:
        yield warn(name, text)
    if not problems and not unknown:
        files = ', '.join(conf.config_file or conf.default_config_files or ())
        yield ok(name, f'all options are valid ({files or "no file read"}).')


def sections(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """Which storage namespaces of Keystone are on Cassandra."""
    name = 'sections'
    elsewhere = []
    for namespace, (section, option) in options.namespaces().items():
        drivers = importlib.metadata.entry_points(group=namespace).names
        # An unset [role] driver follows the one of assignments.
        chosen = conf[section][option] or (
            conf.assignment.driver if section == 'role' else 'sql'
        )
        shown = f'[{section}] {option} = {chosen}'
        if not _is_set(conf, section, option):
            shown += ' (not set)'
        if chosen not in drivers:
            yield fail(
                name,
                f'{shown}, but no such driver is installed: it is one of'
                f' {", ".join(sorted(drivers))}.',
            )
        elif chosen == options.DRIVER:
            yield ok(name, f'{shown}.')
        elif namespace in _CONSEQUENCES:
            yield warn(name, f'{shown}: {_CONSEQUENCES[namespace]}')
        else:
            elsewhere.append(shown)
    if elsewhere:
        # No advice: each may be meant so, and switching one copies nothing.
        yield ok(name, f'not in Cassandra: {"; ".join(elsewhere)}.')


def _is_set(conf: cfg.ConfigOpts, section: str, option: str) -> bool:
    found = conf.get_location(option, section)
    return (
        found is not None and found.location is not cfg.Locations.opt_default
    )


def healthcheck(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """What asks for the health check is where it is read."""
    name = 'healthcheck'
    if not _asks_for_check(conf):
        return
    default = cfg.ConfigOpts()
    # As the middleware does, whatever files the server is told to read.
    default([], project='keystone', prog='keystone')
    if _asks_for_check(default):
        yield ok(name, f'[healthcheck] backends has {options.DRIVER}.')
    else:
        files = options.config_files(default)
        yield warn(
            name,
            f'[healthcheck] backends = {options.DRIVER} has no effect, and'
            ' /healthcheck answers 200 whatever happens: Keystone reads this'
            ' section from its default files alone'
            f' ({", ".join(map(str, files)) or "there are none"}). Set it in'
            ' /etc/keystone/keystone.conf.',
        )


def _asks_for_check(conf: cfg.ConfigOpts) -> bool:
    conf.register_opts(opts.HEALTHCHECK_OPTS, group='healthcheck')
    return options.DRIVER in conf.healthcheck.backends


def driver(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """The Python driver has its event loop and its compiled modules."""
    name = 'driver'
    found = nodes.driver()
    if found.event_loop != _LIBEV:
        yield warn(
            name,
            f'cassandra-driver {found.version} uses {found.event_loop}, not'
            ' libev: install a wheel, or libev before building it.',
        )
    if found.missing:
        yield warn(
            name,
            f'cassandra-driver {found.version} lacks the compiled modules'
            f' {", ".join(found.missing)}: install a wheel, or Cython before'
            ' building it. Until then a check costs several times the CPU.',
        )
    if found.event_loop == _LIBEV and not found.missing:
        yield ok(
            name,
            f'cassandra-driver {found.version} with libev and compiled'
            ' modules.',
        )


def metrics(conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """The directory for metrics can be written, where there is one."""
    name = 'metrics'
    try:
        directory = conf.cassandra.metrics_dir
    except (cfg.Error, ValueError):
        return  # the check of the configuration says so
    if not directory:
        return
    wrong = db_metrics.problem(directory)
    if wrong:
        yield fail(name, f'[cassandra] metrics_dir = {directory} {wrong}')
    else:
        yield ok(name, f'metrics are written to {directory}.')
