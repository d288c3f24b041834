# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor that need no node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import command
import pytest
from lab import ports
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import cluster_checks, doctor, local_checks
from keystone_cassandra_token.db.findings import Finding, State


def keystone_conf(folder: Path, text: str) -> cfg.ConfigOpts:
    path = folder / 'keystone.conf'
    path.write_text(text)
    return command.configuration(path)


def states(results: Iterator[Finding]) -> list[State]:
    return [result.state for result in results]


def test_all_wrong_options_are_named(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '[cassandra]\nport = x\nconcurrency = 0\n')
    found = list(local_checks.configuration(conf))
    assert {result.state for result in found} == {State.FAIL}
    text = ' '.join(map(str, found))
    assert '[cassandra] port' in text
    assert '[cassandra] concurrency' in text


def test_valid_options_name_the_file(tmp_path: Path) -> None:
    conf = keystone_conf(
        tmp_path, '[database]\ncassandra_node_ips = 127.0.0.1\n'
    )
    (found,) = local_checks.configuration(conf)
    assert found.state is State.OK
    assert 'keystone.conf' in found.text


def test_sections_that_are_not_set_are_on_sql(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '[trust]\ndriver = cassandra\n')
    found = [str(result) for result in local_checks.sections(conf)]
    assert 'ok    sections: [trust] driver = cassandra.' in found
    assert any(
        line.startswith('warn  sections: [revoke] driver = sql (not set):')
        for line in found
    )
    # The rest may be meant so: one line that gives no advice.
    (line,) = (
        line
        for line in found
        if '[trust]' not in line and '[revoke]' not in line
    )
    assert line.startswith('ok    sections: not in Cassandra: ')
    assert '[token] provider = fernet (not set)' in line
    for section, _ in options.namespaces().values():
        assert sum(f'[{section}] ' in line for line in found) == 1


def test_revocations_alone_are_no_reason_to_warn(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '[revoke]\ndriver = cassandra\n')
    found = list(local_checks.sections(conf))
    assert states(iter(found)) == [State.OK, State.OK]
    assert not any('set it to' in result.text for result in found)


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('[cassandra]\ntls_enable = true\n', 'is tls_enabled meant?'),
        ('[cassandra]\nkeyspce = a\n', 'is keyspace meant?'),
        ('[cassandra]\nwhatever_this = a\n', 'has no effect.'),
        ('[database]\ncassandra_nodes = a\n', 'is cassandra_node_ips meant?'),
        ('[casandra]\nport = 1\n', 'is [cassandra] meant?'),
    ],
)
def test_an_option_that_is_none_is_named(
    tmp_path: Path, text: str, named: str
) -> None:
    conf = keystone_conf(
        tmp_path, f'{text}[database]\ncassandra_node_ips = 127.0.0.1\n'
    )
    (found,) = local_checks.configuration(conf)
    assert found.state is State.WARN
    assert named in found.text
    assert str(tmp_path) in found.text


def test_old_names_of_options_are_known(tmp_path: Path) -> None:
    conf = keystone_conf(
        tmp_path,
        '[database]\ncassandra_node_ips = 127.0.0.1\n'
        '[cassandra]\nclaim_serial_consistency = SERIAL\n'
        'tls_enabled = false\n',
    )
    assert states(local_checks.configuration(conf)) == [State.OK]


def test_options_that_cannot_work_are_told_once(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '[cassandra]\nport = x\n')
    found = [str(result) for result in doctor.examine(conf)]
    assert 'FAIL  configuration: [cassandra] port: x is no number.' in found
    assert sum('port' in line for line in found) == 1
    assert 'Nothing of the cluster was checked' in found[-1]


def test_a_driver_set_to_sql_is_told_from_an_unset_one(
    tmp_path: Path,
) -> None:
    conf = keystone_conf(tmp_path, '[revoke]\ndriver = sql\n')
    (line,) = (
        result.text
        for result in local_checks.sections(conf)
        if '[revoke]' in result.text
    )
    assert '(not set)' not in line


def test_a_misspelt_driver_fails(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '[revoke]\ndriver = casandra\n')
    (found,) = (
        result
        for result in local_checks.sections(conf)
        if '[revoke]' in result.text
    )
    assert found.state is State.FAIL
    assert 'cassandra, sql' in found.text


def test_the_driver_here_has_all_it_needs(tmp_path: Path) -> None:
    conf = keystone_conf(tmp_path, '')
    assert states(local_checks.driver(conf)) == [State.OK]


@pytest.mark.parametrize(
    ('version', 'tickets'),
    [
        ((4, 1, 0), ['CVE-2023-30601', 'CVE-2026-32588']),
        ((4, 1, 10), ['CVE-2026-32588']),
        ((4, 1, 11), []),
        ((5, 0, 6), ['CVE-2026-32588', 'CVE-2026-27314']),
        ((5, 0, 7), []),
    ],
)
def test_known_holes(version: tuple[int, ...], tickets: list[str]) -> None:
    found = list(cluster_checks.holes_of(version))
    assert [text.split(':')[0] for text in found] == tickets


@pytest.mark.parametrize(
    ('compaction', 'seconds'),
    [
        (
            "{'class': 'TimeWindowCompactionStrategy',"
            " 'compaction_window_size': '90',"
            " 'compaction_window_unit': 'MINUTES'}",
            5400,
        ),
        ("{'class': 'TimeWindowCompactionStrategy'}", 86400),
        ("{'class': 'LeveledCompactionStrategy'}", None),
        ('', None),
    ],
)
def test_window_of_a_table(compaction: str, seconds: int | None) -> None:
    assert cluster_checks.window_seconds({'compaction': compaction}) == seconds


def test_a_check_that_breaks_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(conf: cfg.ConfigOpts) -> Iterator[Finding]:
        raise RuntimeError('a secret')

    monkeypatch.setattr(doctor, 'LOCAL', (broken, local_checks.driver))
    conf = keystone_conf(
        tmp_path, '[database]\ncassandra_node_ips = 127.0.0.1\n'
    )
    found = list(doctor.examine(conf))
    assert [result.name for result in found] == [
        'broken',
        'driver',
        'connection',
    ]
    assert found[0].state is State.FAIL
    assert 'secret' not in str(found[0])


def test_without_a_node_the_rest_is_still_checked(tmp_path: Path) -> None:
    run = command.for_nodes(tmp_path, ['127.0.0.1'], ports.free_port(), 'ks')
    done = run.here('doctor')
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(line[:6] in ('ok    ', 'warn  ', 'FAIL  ') for line in lines)
    assert lines[-1].startswith('FAIL  connection: ')
    for name in ('configuration', 'sections', 'driver'):
        assert any(f'  {name}: ' in line for line in lines)
    assert 'Traceback' not in done.stderr
