# SPDX-License-Identifier: Apache-2.0
"""The command line: usage, exit codes, and what needs no node."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import command
import pytest
from lab import ports

from keystone_cassandra_token.cmd import main
from keystone_cassandra_token.schema import files


@pytest.fixture
def run(tmp_path: Path) -> command.Command:
    """The command, for a cluster that is not there."""
    return command.for_nodes(tmp_path, ['127.0.0.1'], ports.free_port(), 'ks')


@pytest.mark.parametrize(
    'words',
    [
        [],
        ['schema'],
        ['keyspace', 'create', '--replication', 'dc1'],
        ['keyspace', 'create', '--replication', "dc1'=3"],
        ['schema', 'plan', '--dry-run'],
    ],
    ids=' '.join,
)
def test_wrong_usage(run: command.Command, words: list[str]) -> None:
    done = run.here(*words)
    assert done.returncode == 2
    assert 'usage: keystone-cassandra' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('dc1=3', {'dc1': 3}),
        ('dc1=3, eu-west_2=5', {'dc1': 3, 'eu-west_2': 5}),
        ('dc1=0', None),
        ('dc1=3,dc1=3', None),
        ('dc1=3,', None),
        ('', None),
    ],
)
def test_replication(text: str, found: dict[str, int] | None) -> None:
    if found is None:
        with pytest.raises(argparse.ArgumentTypeError, match='dc1=3,dc2=3'):
            main.replication(text)
    else:
        assert main.replication(text) == found


def test_version(run: command.Command) -> None:
    done = run('--version')
    assert done.returncode == 0
    assert re.match(r'\d+\.\d+', done.stdout)


@pytest.mark.parametrize(
    'words',
    [
        ['keyspace', 'create'],
        ['schema', 'apply'],
        ['schema', 'apply', '--dry-run'],
    ],
    ids=' '.join,
)
def test_no_node_answers(run: command.Command, words: list[str]) -> None:
    done = run.here(*words)
    assert done.returncode == 1
    assert done.stdout == ''
    assert '[database] cassandra_node_ips' in command.last_line(done)


def test_an_option_that_cannot_work_is_named(tmp_path: Path) -> None:
    run = command.for_nodes(
        tmp_path, ['127.0.0.1'], 1, 'ks', cassandra={'concurrency': 0}
    )
    done = run.here('schema', 'status')
    assert done.returncode == 1
    assert '[cassandra] concurrency' in command.last_line(done)


def test_no_contact_points(tmp_path: Path) -> None:
    done = command.Command(tmp_path, {}).here('schema', 'apply')
    assert done.returncode == 1
    assert 'cassandra_node_ips is empty' in command.last_line(done)


def test_a_configuration_file_that_is_not_there() -> None:
    done = command.here('--config-file', '/nowhere/x.conf', 'doctor')
    assert done.returncode == 1
    assert '/nowhere/x.conf' in command.last_line(done)


def test_the_plan_offline_is_all_of_it(run: command.Command) -> None:
    done = run.here('schema', 'plan', '--offline')
    assert done.returncode == 0
    for migration in files.migrations():
        for statement in migration.statements('ks'):
            assert f'{statement};' in done.stdout
        assert migration.checksum in done.stdout
    assert "'name_comparison', 'insensitive'" in done.stdout
    without_comments = re.sub(r'^--.*$', '', done.stdout, flags=re.MULTILINE)
    named = re.findall(r'(?:EXISTS|INTO) (\S+?\."?\w+"?)', without_comments)
    assert named
    assert all(name.startswith('ks.') for name in named)


def test_the_reader_of_the_output_has_enough(run: command.Command) -> None:
    code = f'exec {" ".join(run.arguments("schema", "plan", "--offline"))}'
    done = subprocess.run(
        ['bash', '-c', f'({code}) | true'],
        capture_output=True,
        text=True,
    )
    assert 'Error' not in done.stderr


def test_roles_let_servers_write_and_no_more(
    run: command.Command,
) -> None:
    done = run.here('schema', 'roles')
    assert done.returncode == 0
    assert '{' not in done.stdout
    servers = [
        line for line in done.stdout.splitlines() if 'TO ks_server;' in line
    ]
    assert not re.search('CREATE|ALTER|DROP|AUTHORIZE|ALL', str(servers))
    assert 'PASSWORD' not in re.sub(
        r'^--.*$', '', done.stdout, flags=re.MULTILINE
    )


def test_it_imports_no_driver_of_keystones() -> None:
    # A broken driver must not keep the doctor from saying so.
    code = (
        'import sys, keystone_cassandra_token.cmd.main\n'
        "found = [name for name in sys.modules if '.drivers.' in name"
        " and name.startswith('keystone_cassandra_token')]\n"
        'assert not found, found\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
