# SPDX-License-Identifier: Apache-2.0
"""How many of Keystone's own tests ran, by area, and why some did not."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

#: Areas of Keystone: the first of whose words is in a test's path has it.
AREAS = {
    'LDAP': ('ldap',),
    'application credentials': ('application_credential', 'access_rule'),
    'trusts': ('trust',),
    'limits': ('limit',),
    'OAuth': ('oauth', 'consumer'),
    'receipts': ('receipt',),
    'federation': (
        'federation',
        'identity_provider',
        'protocol',
        'test_mapping',
        'service_provider',
        'mapped',
        'saml2',
    ),
    'credentials': ('credential', 'ec2', 's3', 'simple_cert'),
    'policies': ('policy', 'policies', 'rbac'),
    'tokens and revocation': ('token', 'revoke', 'v3_auth', 'unit/auth'),
    'catalog': ('catalog', 'endpoint', 'region', 'services'),
    'projects and domains': ('resource', 'project', 'domain'),
    'roles and assignments': ('assignment', 'role', 'grant'),
    'users and groups': ('identity', 'user', 'group', 'id_mapping'),
    'SQL': ('sql',),
}
OTHER = 'all else'

_KEY = 'keystone_tests'
_RECORDED = pytest.StashKey[dict[str, Any]]()


def name(item: pytest.Item) -> str:
    """Return ``path::Class::test``, the path from ``keystone/tests``."""
    # The id of what is outside of the checkout has no folders.
    _, _, rest = item.nodeid.partition('::')
    return _short(f'{item.path}::{rest}')


def _short(nodeid: str) -> str:
    _, found, rest = nodeid.partition('keystone/tests/')
    return rest if found else nodeid.rpartition('tests/conformance/')[2]


def skipped_because(report: pytest.TestReport) -> str:
    """Return why a test skipped itself."""
    if hasattr(report, 'wasxfail'):
        return 'Keystone expects it to fail.'
    _, _, reason = report.longrepr  # type: ignore[misc]
    return str(reason).removeprefix('Skipped: ')


def area(test: str) -> str:
    """Return the area of a test, by its path."""
    path = test.split('::')[0]
    for title, words in AREAS.items():
        if any(word in path for word in words):
            return title
    return OTHER


def record(
    config: pytest.Config,
    reasons: Mapping[str, int],
    areas: Mapping[str, int],
    not_shared: int,
) -> None:
    """Keep the number of tests that are left out.

    A worker of pytest-xdist hands them to its controller at the end.

    :param reasons: how many for each reason.
    :param areas: how many in each area.
    :param not_shared: how many are of other shares.
    """
    recorded = {
        'reasons': dict(reasons),
        'areas': dict(areas),
        'not_shared': not_shared,
    }
    config.stash[_RECORDED] = recorded
    output: dict[str, Any] | None = getattr(config, 'workeroutput', None)
    if output is not None:
        output[_KEY] = recorded


def receive(config: pytest.Config, output: Mapping[str, Any]) -> None:
    """Take over what a worker recorded: all collect the same tests."""
    if _KEY in output:
        config.stash[_RECORDED] = output[_KEY]


def report(config: pytest.Config, stats: Mapping[str, list[Any]]) -> list[str]:
    """Return lines of a table of areas, and of the reasons."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    for entry in (entry for entries in stats.values() for entry in entries):
        if not isinstance(entry, pytest.TestReport):
            continue
        where = area(_short(entry.nodeid))
        seconds[where] += entry.duration  # type: ignore[assignment]
    not_run = [*stats.get('skipped', ()), *stats.get('xfailed', ())]
    # Who passed, and failed to clear up, has both reports.
    failed = _tests([*stats.get('failed', ()), *stats.get('error', ())])
    for outcome, tests in (
        ('passed', _tests(stats.get('passed', ())) - failed),
        ('failed', failed),
        ('skipped', _tests(not_run) - failed),
    ):
        for test in tests:
            counts[area(_short(test)), outcome] += 1
    skipped = collections.Counter(map(skipped_because, not_run))
    recorded = config.stash.get(_RECORDED, {})
    left_out = recorded.get('areas', {})
    lines = [
        f'{"":26}{"passed":>8}{"failed":>8}{"skipped":>9}{"left out":>10}'
        f'{"seconds":>9}'
    ]
    total = collections.Counter[str]()
    for where in (*AREAS, OTHER):
        row = {
            'passed': counts[where, 'passed'],
            'failed': counts[where, 'failed'],
            'skipped': counts[where, 'skipped'],
            'left out': left_out.get(where, 0),
            'seconds': round(seconds[where]),
        }
        if any(row.values()):
            lines.append(_row(where, row))
        total.update(row)
    lines.append(_row('all', total))
    if recorded.get('not_shared'):
        lines.append(f'{recorded["not_shared"]} are of other shares.')
    for title, reasons in (
        ('Skipped by Keystone itself:', skipped),
        ('Left out:', recorded.get('reasons', {})),
    ):
        if reasons:
            lines.append(title)
            lines += [f'{n:5}  {reason}' for reason, n in reasons.items()]
    return lines


def _tests(reports: Iterable[pytest.TestReport]) -> set[str]:
    return {report.nodeid for report in reports}


def _row(where: str, row: Mapping[str, int]) -> str:
    return (
        f'{where:26}{row["passed"]:8}{row["failed"]:8}{row["skipped"]:9}'
        f'{row["left out"]:10}{row["seconds"]:9}'
    )
