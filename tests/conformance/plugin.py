# SPDX-License-Identifier: Apache-2.0
"""Run Keystone's own tests on the drivers, without touching a line of them.

A plugin of pytest for the packages ``keystone.tests.unit`` and
``keystone.tests.protection`` of the installed Keystone; ``tools/test
conformance`` tells pytest of both.  While a test runs

- a driver that is asked for as ``sql`` or ``fernet`` (the providers of tokens
  and receipts), by default or in so many words, is the one for Cassandra;
- a class of those drivers that a module of tests names directly is ours;
- there is no SQL: who makes an engine gets an exception, a driver that opens a
  session, too, and the test fails, also if it does not mind the exception;
- a test that looks at the SQL model looks at our rows
  (:mod:`~tests.conformance.through_driver`);
- the tables that the test before it wrote are empty.

With ``KEYSTONE_CASSANDRA_STOCK`` set nothing of that is done, and all tests of
Keystone are run that can be imported, and none of ours: what fails then is
Keystone's own.  With ``KEYSTONE_CASSANDRA_SHARE`` set to ``2/30``, say, the
second thirtieth of all is run.

``deselected.txt`` lists tests that are not run, with reasons; an entry that
matches no test fails the run.  A test may skip itself with the reasons that
are listed there only.
"""

from __future__ import annotations

import collections
import fnmatch
import functools
import gc
import importlib
import os
import pathlib
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from importlib import metadata
from typing import Any

import fixtures
import freezegun
import keystone.conf.identity
import keystone.tests
import pytest
import sqlalchemy
import sqlalchemy.engine.create
from keystone import notifications
from keystone.auth import core as auth
from keystone.common import manager, sql
from lab.cassandra import Cluster

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import store as stores
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import shadow_users
from keystone_cassandra_token.schema.version import SETTINGS
from tests.conformance import summary, through_driver
from tests.conftest import made_keyspace, point_at

HERE = pathlib.Path(__file__).parent
KEYSTONE_TESTS = pathlib.Path(keystone.tests.__file__).parent
STOCK = 'KEYSTONE_CASSANDRA_STOCK' in os.environ

#: Where Keystone's tests are.
PACKAGES = {'keystone.tests.unit', 'keystone.tests.protection'}

#: Asked for -> given, by namespace.
EXCHANGED = {
    namespace: {'fernet' if option == 'provider' else 'sql': options.DRIVER}
    for namespace, (_, option) in options.namespaces().items()
}

#: What an entry of ``deselected.txt`` begins with that is a reason.
_SKIP = 'skip: '

#: Who made an engine of SQL, or opened a session, during the test.
touched: list[str] = []

# Each test builds a whole Keystone, and collecting what it leaves with the
# thresholds of a small program takes a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# The driver's time-outs run on real time, in threads of its own.
freezegun.configure(extend_ignore_list=['cassandra', 'lab'])

# Where Keystone's tests put their files; the default is among their sources.
# Each worker of pytest-xdist has one of its own.
_folder = tempfile.TemporaryDirectory(prefix='keystone-tests-')
os.environ['KEYSTONE_TEST_TEMP_DIR'] = _folder.name


def pytest_configure(config: pytest.Config) -> None:
    from keystone.tests.unit import core

    # Keystone's package installs here what its sources have in "etc".
    core.ETCDIR = os.path.join(sys.prefix, 'etc', 'keystone')
    if STOCK:
        return
    for module in (sqlalchemy, sqlalchemy.engine, sqlalchemy.engine.create):
        module.create_engine = _refuse  # type: ignore[attr-defined]
    sql.session_for_read = _session  # type: ignore[assignment]
    sql.session_for_write = _session  # type: ignore[assignment]
    from keystone.tests.unit.ksfixtures import database

    database.Database = _NoDatabase
    database.initialize_sql_session = _refuse


def _refuse(*_args: Any, **_options: Any) -> Any:
    """Stand where an engine of SQL is made: there is none."""
    touched.append(os.environ.get('PYTEST_CURRENT_TEST', ''))
    raise AssertionError('SQL was touched')


def _session() -> Any:
    """Stand where a session of SQL is opened: a test may, a driver may not."""
    caller = sys._getframe(1).f_globals['__name__']
    if not caller.startswith('keystone.tests.'):
        _refuse()
    return through_driver.session()


class _NoDatabase(fixtures.Fixture):  # type: ignore[misc]
    """Stand where Keystone's tests make an SQL database."""

    def recreate(self) -> None:
        """Do nothing, as there is nothing to make."""


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leave listed modules uncollected: they cannot be imported.

    Nor are tests of ours collected where Keystone's drivers are tested.
    """
    if STOCK and collection_path.parent == HERE:
        return True
    if KEYSTONE_TESTS in collection_path.parents:
        path = collection_path.relative_to(KEYSTONE_TESTS)
        return str(path) in _listed() or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Take the listed tests out; an entry without a test is an error."""
    named = {summary.name(item): item for item in items}
    modules = {name.split('::')[0] for name in named}
    narrowed = any('::' in arg for arg in config.args)
    # Then a module without a test has lost all it had.
    whole = set(config.args) >= PACKAGES
    gone: dict[str, str] = {}
    for entry, reason in _listed().items():
        if entry.startswith(_SKIP):
            continue
        module = entry.split('::')[0]
        found = fnmatch.filter(named, entry)
        there = any(
            (folder / module).exists() for folder in (KEYSTONE_TESTS, HERE)
        )
        expected = module in modules or (whole and entry != module)
        stale = expected or not there
        if not found and not narrowed and stale:
            raise _mistake(f'deselected.txt lists {entry}, which is no test')
        gone.update(dict.fromkeys(found, reason))
    not_shared = set(_not_shared(named)) - gone.keys()
    if STOCK:
        gone = {}
    summary.record(
        config,
        collections.Counter(gone.values()),
        collections.Counter(map(summary.area, gone)),
        len(not_shared),
    )
    gone |= dict.fromkeys(not_shared, '')
    if gone:
        config.hook.pytest_deselected(items=[named[name] for name in gone])
        items[:] = [i for i in items if summary.name(i) not in gone]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test skip itself for a reason that is not listed."""
    report = yield
    expected = hasattr(report, 'wasxfail')  # to fail
    if report.skipped and not expected and not STOCK:
        reason = summary.skipped_because(report)
        if not any(
            fnmatch.fnmatch(_SKIP + reason, entry) for entry in _listed()
        ):
            report.outcome = 'failed'
            report.longrepr = (
                f'{summary.name(item)} skipped itself, and deselected.txt'
                f' does not list the reason: {reason}'
            )
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    summary.receive(node.config, getattr(node, 'workeroutput', {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section("Keystone's own tests on these drivers")
    for line in summary.report(config, terminalreporter.stats):
        terminalreporter.line(line)


def _mistake(message: str) -> Exception:
    """Return an error of who runs the tests, or who wrote the list.

    From a worker of pytest-xdist a ``UsageError`` does not reach the screen.
    """
    if 'PYTEST_XDIST_WORKER' in os.environ:
        return RuntimeError(message)
    return pytest.UsageError(message)


def _not_shared(names: Iterable[str]) -> list[str]:
    """Return the tests that are of other shares."""
    share = os.environ.get('KEYSTONE_CASSANDRA_SHARE')
    if not share:
        return []
    number, _, of = map(str.strip, share.partition('/'))
    if not (number.isdecimal() and of.isdecimal()) or not (
        1 <= int(number) <= int(of)
    ):
        raise _mistake(
            f'KEYSTONE_CASSANDRA_SHARE is {share!r}, and not one like 2/30'
        )
    return [
        name
        for name in names
        if zlib.crc32(name.encode()) % int(of) != int(number) - 1
    ]


@functools.cache
def _named() -> list[tuple[Any, str, type]]:
    """Return the modules and names of Keystone's drivers, and ours in place.

    Some tests take the class from its module, and some ask whether it is it.
    """
    found = []
    for namespace, given in EXCHANGED.items():
        for asked, name in given.items():
            (theirs,) = metadata.entry_points(group=namespace, name=asked)
            (ours,) = metadata.entry_points(group=namespace, name=name)
            module = importlib.import_module(theirs.module)
            found.append((module, theirs.attr, ours.load()))
    return found


@functools.cache
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
            raise _mistake(f'deselected.txt: no reason for {line}')
        else:
            found[line] = reason
    return found


@pytest.fixture(scope='session')
def suite_keyspace(cassandra_cluster: Cluster) -> Iterator[str]:
    """A keyspace of the suite's own: its names differ in case only."""
    yield from made_keyspace(cassandra_cluster, 'sensitive')


@pytest.fixture(scope='session')
def written(suite_keyspace: str) -> Iterator[set[str]]:
    """Tables written since they were last truncated."""
    tables: set[str] = set()
    patch = pytest.MonkeyPatch()

    def note(statements: Any, send: stores.Send) -> Any:
        tables.update(
            statement.table
            for statement in statements
            # The settings are the keyspace's, not a test's.
            if statement.verb != 'SELECT' and statement.table != SETTINGS.table
        )
        return send()

    patch.setattr(stores.Store, 'interceptors', (note,))
    yield tables
    patch.undo()


@pytest.fixture(autouse=True)
def on_cassandra(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Exchange the drivers for one test, and give it empty tables."""
    # Some tests leave their plugins to those after them, and those of
    # protection their managers: each event would be told to all of them.
    auth.AUTH_METHODS.clear()
    auth.AUTH_PLUGINS_LOADED = False
    notifications.clear_subscribers()
    if summary.name(request.node).startswith('protection/'):
        # These hash with 12 rounds, 0.4 s each; others set the minimum.
        monkeypatch.setattr(
            keystone.conf.identity.password_hash_rounds, 'default', 4
        )
    if STOCK:
        yield
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
    for module, name, ours in _named():
        monkeypatch.setattr(module, name, ours)
    for driver, name, ours in (
        (identity.Identity, '_get_user', through_driver.get_user),
        (
            shadow_users.ShadowUsers,
            '_get_federated_user',
            through_driver.get_federated_user,
        ),
    ):
        monkeypatch.setattr(driver, name, ours, raising=False)
    session = base.shared(keystone.conf.CONF).sessions.get().session
    # At once: each takes some ten milliseconds, of which it waits for most.
    emptied = [
        session.execute_async(f'TRUNCATE {keyspace}."{table}"', timeout=60)
        for table in sorted(written)
    ]
    for each in emptied:
        each.result()
    written.clear()
    touched.clear()
    yield
    assert not touched, 'SQL was touched'
