# SPDX-License-Identifier: Apache-2.0
"""Run Keystone's own tests on the drivers, without touching a line of them.

Each ``test_*.py`` of this folder takes the test classes of one module of
``keystone.tests`` as they are.  While they run

- a driver that is asked for as ``sql`` or ``fernet`` (the providers of tokens
  and receipts), by default or in so many words, is the one for Cassandra,
  where there is one;
- a SQL class that a module names directly is ours;
- before each test the tables that were written since are truncated.

All other namespaces stay on SQL (SQLite in memory).  With the environment
variable ``KEYSTONE_CASSANDRA_STOCK`` set nothing is exchanged and nothing
left out: what fails then is Keystone's own.

With ``KEYSTONE_CASSANDRA_SHARE`` set to ``2/8``, say, only the second eighth
of the tests that go through Keystone's API is run, and all others; without
it all are.

``deselected.txt`` lists tests that are not run, with reasons; an entry that
matches no test fails the run, and so does a skip that is not listed.  Not
here at all are ``token.test_fernet_provider``, ``token.test_jws_provider``,
``token.test_token_serialization`` and ``token.test_mysql_pool_reproducer``
(the formats and keys of other providers, and MySQL's connections).
"""

from __future__ import annotations

import collections
import fnmatch
import gc
import os
import pathlib
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import freezegun
import keystone.application_credential.backends.sql
import keystone.conf.identity
import keystone.endpoint_policy.backends.sql
import keystone.identity.backends.sql
import keystone.identity.shadow_backends.sql
import keystone.policy.backends.sql
import keystone.resource.backends.sql
import keystone.resource.config_backends.sql
import keystone.revoke.backends.sql
import pytest
from keystone.common import manager
from keystone.tests.unit import (
    identity_mapping,
    test_backend_sql,
    test_v3_identity,
)
from keystone.tests.unit.identity import test_backend_sql as identity_sql_tests
from keystone.tests.unit.identity.shadow_users import (
    test_backend as shadow_tests,
)
from lab.cassandra import Cluster
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token import store as stores
from keystone_cassandra_token.drivers import (
    application_credential,
    domain_config,
    endpoint_policy,
    id_mapping,
    identity,
    policy,
    resource,
    revoke,
    shadow_users,
)
from keystone_cassandra_token.schema.level import SETTING
from tests.conftest import made_keyspace, point_at
from tests.contract import left_out
from tests.contract.keystone_suite import through_driver

HERE = pathlib.Path(__file__).parent
STOCK = 'KEYSTONE_CASSANDRA_STOCK' in os.environ

#: Asked for -> given, by namespace.
EXCHANGED = {
    'keystone.token.provider': {'fernet': 'cassandra'},
    'keystone.revoke': {'sql': 'cassandra'},
    'keystone.trust': {'sql': 'cassandra'},
    'keystone.credential': {'sql': 'cassandra'},
    'keystone.identity': {'sql': 'cassandra'},
    'keystone.identity.shadow_users': {'sql': 'cassandra'},
    'keystone.identity.id_mapping': {'sql': 'cassandra'},
    'keystone.application_credential': {'sql': 'cassandra'},
    'keystone.federation': {'sql': 'cassandra'},
    'keystone.oauth1': {'sql': 'cassandra'},
    'keystone.receipt.provider': {'fernet': 'cassandra'},
    'keystone.resource': {'sql': 'cassandra'},
    'keystone.assignment': {'sql': 'cassandra'},
    'keystone.unified_limit': {'sql': 'cassandra'},
    'keystone.role': {'sql': 'cassandra'},
    'keystone.resource.domain_config': {'sql': 'cassandra'},
    'keystone.catalog': {'sql': 'cassandra'},
    'keystone.endpoint_filter': {'sql': 'cassandra'},
    'keystone.endpoint_policy': {'sql': 'cassandra'},
    'keystone.policy': {'sql': 'cassandra'},
}

#: SQL classes that a module of tests takes from their module.
NAMED = (
    (keystone.revoke.backends.sql, 'Revoke', revoke.Revoke),
    (keystone.resource.backends.sql, 'Resource', resource.Resource),
    (
        keystone.application_credential.backends.sql,
        'ApplicationCredential',
        application_credential.ApplicationCredential,
    ),
    (keystone.identity.backends.sql, 'Identity', identity.Identity),
    (
        keystone.identity.shadow_backends.sql,
        'ShadowUsers',
        shadow_users.ShadowUsers,
    ),
    (
        keystone.resource.config_backends.sql,
        'DomainConfig',
        domain_config.DomainConfig,
    ),
    (
        keystone.endpoint_policy.backends.sql,
        'EndpointPolicy',
        endpoint_policy.EndpointPolicy,
    ),
    (keystone.policy.backends.sql, 'Policy', policy.Policy),
)

#: Modules of tests that look at users as rows of the SQL model.
READING_MODELS = (
    test_backend_sql,
    test_v3_identity,
    identity_sql_tests,
    shadow_tests,
)

#: Modules of tests that go through Keystone's API, which takes a second each.
THROUGH_API = ('test_v3_', 'test_protection_')

# Each test builds a whole Keystone, and collecting what it leaves with the
# thresholds of a small program takes a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# The driver's time-outs run on real time, in threads of its own.
freezegun.configure(extend_ignore_list=['cassandra', 'lab'])

# Keystone's protection tests hash with 12 rounds, 0.4 s each; its other tests
# set the minimum, as this does.
cfg.set_defaults(
    [keystone.conf.identity.password_hash_rounds], password_hash_rounds=4
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Take the listed tests out; an entry without a test is an error."""
    mine = {_name(item): item for item in items if HERE in item.path.parents}
    narrowed = any('::' in arg for arg in config.args)
    modules = {name.split('::')[0] for name in mine}
    gone: dict[str, str] = {}
    for entry, reason in _listed().items():
        found = fnmatch.filter(mine, entry)
        module = entry.split('::')[0]
        stale = module in modules or not (HERE / f'{module}.py').exists()
        if not found and not narrowed and stale:
            raise pytest.UsageError(
                f'deselected.txt lists {entry}, which is no test'
            )
        gone.update(dict.fromkeys(found, reason))
    gone |= dict.fromkeys(_not_shared(mine), 'not of this share')
    if gone and not STOCK:
        config.hook.pytest_deselected(items=[mine[name] for name in gone])
        items[:] = [
            item
            for item in items
            if HERE not in item.path.parents or _name(item) not in gone
        ]
        left_out.record(config, collections.Counter(gone.values()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test skip itself unnoticed."""
    report = yield
    if report.skipped and not STOCK:
        report.outcome = 'failed'
        report.longrepr = (
            f'{_name(item)} was skipped and is not in deselected.txt:'
            f' {report.longrepr}'
        )
    return report


def _not_shared(names: Iterable[str]) -> list[str]:
    """Return the tests of Keystone's API that are of other shares."""
    share = os.environ.get('KEYSTONE_CASSANDRA_SHARE')
    if not share:
        return []
    number, _, of = map(str.strip, share.partition('/'))
    if not (number.isdecimal() and of.isdecimal()) or not (
        1 <= int(number) <= int(of)
    ):
        raise pytest.UsageError(
            f'KEYSTONE_CASSANDRA_SHARE is {share!r}, and not one like 2/8'
        )
    return [
        name
        for name in names
        if name.startswith(THROUGH_API)
        and zlib.crc32(name.encode()) % int(of) != int(number) - 1
    ]


def _listed() -> dict[str, str]:
    """Return the tests that are not run, each with its reason."""
    found: dict[str, str] = {}
    reason = ''
    for line in (HERE / 'deselected.txt').read_text().splitlines():
        if line.startswith('#'):
            reason = line.lstrip('# ')
        elif not line:
            reason = ''
        elif not reason:
            raise pytest.UsageError(f'deselected.txt: no reason for {line}')
        else:
            found[line] = reason
    return found


def _name(item: pytest.Item) -> str:
    """Return ``module::Class::test``."""
    return '::'.join((item.path.stem, *item.nodeid.split('::')[1:]))


@pytest.fixture(scope='session')
def suite_keyspace(cassandra_cluster: Cluster) -> Iterator[str]:
    """A keyspace of the suite's own: its names differ in case only."""
    yield from made_keyspace(cassandra_cluster, 'sensitive')


@pytest.fixture(scope='session')
def written(suite_keyspace: str) -> Iterator[set[str]]:
    """Tables written since they were last truncated."""
    tables: set[str] = set()
    patch = pytest.MonkeyPatch()

    def note(statement: Any) -> None:
        # The settings are the keyspace's, not a test's.
        if statement.verb != 'SELECT' and statement.table != SETTING.table:
            tables.add(statement.table)

    start, start_batch = stores.Store._start, stores.Store._start_batch

    def noting(self: Any, statement: Any, binds: Any) -> Any:
        note(statement)
        return start(self, statement, binds)

    def noting_batch(self: Any, steps: Any, level: Any = None) -> Any:
        for statement, _ in steps:
            note(statement)
        return start_batch(self, steps, level)

    patch.setattr(stores.Store, '_start', noting)
    patch.setattr(stores.Store, '_start_batch', noting_batch)
    yield tables
    patch.undo()


def _list_id_mappings() -> list[dict[str, Any]]:
    db = id_mapping.IDMappings().db
    return list(db.iterate(id_mapping.LIST, id_mapping.MAPPING))


@pytest.fixture(autouse=True)
def on_cassandra(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchange the drivers for one test, and give it empty tables."""
    if STOCK:
        return
    keyspace = request.getfixturevalue('suite_keyspace')
    cluster = request.getfixturevalue('cassandra_cluster')
    point_at(keystone.conf.CONF, cluster, keyspace, 'sensitive')
    # Defaults outlive a reset of the configuration, by Keystone's fixtures.
    for opts, values in (
        (
            options.database_opts,
            {'cassandra_node_ips': cluster.contact_points},
        ),
        (
            options.connection_opts,
            {'port': cluster.port, 'keyspace': keyspace},
        ),
        (options.schema_opts, {'name_comparison': 'sensitive'}),
    ):
        for opt in opts:
            if opt.dest in values:
                monkeypatch.setattr(opt, 'default', values[opt.dest])
    written = request.getfixturevalue('written')
    load_driver = manager.load_driver

    def load_ours(namespace: str, name: str, *args: Any) -> Any:
        name = EXCHANGED.get(namespace, {}).get(name, name)
        return load_driver(namespace, name, *args)

    monkeypatch.setattr(manager, 'load_driver', load_ours)
    for module, name, ours in NAMED:
        monkeypatch.setattr(module, name, ours)
    for module in READING_MODELS:
        monkeypatch.setattr(module, 'sql', through_driver.Sql())
    for driver, name, ours in (
        (identity.Identity, '_get_user', through_driver.get_user),
        (
            shadow_users.ShadowUsers,
            '_get_federated_user',
            through_driver.get_federated_user,
        ),
    ):
        monkeypatch.setattr(driver, name, ours, raising=False)
    # Keystone's tests count the mappings in the table.
    monkeypatch.setattr(
        identity_mapping, 'list_id_mappings', _list_id_mappings
    )
    for table in sorted(written):
        for store in stores._shared.values():
            store._sessions.get().session.execute(
                f'TRUNCATE {keyspace}."{table}"', timeout=60
            )
    written.clear()
