# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` decides before and around its run."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from lab import cassandra_install, demo, kept, preflight
from lab.client import no_proxy
from lab.narration import Narrator
from lab.regions import namespaces
from lab.waiting import WaitedInVain, until


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder and a cache of its own."""
    path = tmp_path / 'state'
    monkeypatch.setenv('KEYSTONE_CASSANDRA_STATE_DIR', str(path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('KEYSTONE_CASSANDRA_CONTACT_POINTS', raising=False)
    return path


def problems(*argv):
    return list(preflight.problems(preflight.arguments(argv)))


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        (['--port', '99999'], "from 1 to 65535, not '99999'"),
        (['--port', '0'], "from 1 to 65535, not '0'"),
        (['--workers', '1'], 'at least 2'),
        (['--workers', 'x'], 'at least 2'),
        (['--config-file', '/nowhere'], '/nowhere cannot be read'),
        (['--keep', '--stop'], 'exclude each other'),
        (['--all'], '--all goes with --stop'),
        (['--regions', '1'], "from 2 to 5, not '1'"),
        (['--regions', '2', '--keep'], '--regions goes neither with'),
        (['extra'], 'extra'),
    ],
)
def test_arguments_that_cannot_be(argv, said, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        preflight.main(argv)
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_the_look_needs_no_package() -> None:
    done = subprocess.run(
        # -S: without site-packages.
        [sys.executable, '-S', '-P', '-m', 'lab.preflight', '--help'],
        env={'PYTHONPATH': str(kept.TOOLS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '--keep' in done.stdout


def test_a_machine_that_lacks_all(state, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('JAVA_HOME', raising=False)
    monkeypatch.setenv('KEYSTONE_CASSANDRA_VENV', str(tmp_path / 'venv'))
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(9, 9, 9 << 20))
    state.write_text('in the way')
    java, maven, folder, disk = problems()
    assert 'no java was found' in java
    assert 'mvn' in maven
    assert str(state) in folder
    assert 'KEYSTONE_CASSANDRA_STATE_DIR' in folder
    assert disk.startswith('9 MB are free')


def test_fetched_jars_need_no_maven(state, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(preflight, 'find_java', lambda: None)
    monkeypatch.setattr(preflight, '_full', lambda needs: [])
    monkeypatch.setenv('PATH', str(tmp_path))
    os.makedirs(cassandra_install.jars_directory())
    assert problems() == []


def test_regions_need_namespaces(state, monkeypatch) -> None:
    def refused(*_):
        raise namespaces.NotAllowed('be root')

    monkeypatch.setattr(preflight, 'find_java', lambda: None)
    monkeypatch.setattr(preflight, '_full', lambda needs: [])
    os.makedirs(cassandra_install.jars_directory())
    monkeypatch.setattr(namespaces, 'Namespace', refused)
    assert problems() == []
    assert problems('--regions', '2') == ['be root']


def test_a_taken_port(state) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        (said,) = preflight._taken(port)
        assert f'Port {port}' in said
        assert 'another program' in said
        state.joinpath('demo-1').mkdir()
        kept.Kept(str(state / 'demo-1'), port, '/a', []).save()
        (said,) = preflight._taken(port)
        assert 'tools/demo --stop' in said
    assert list(preflight._taken(port)) == []


def test_a_cluster_that_does_not_answer(state, monkeypatch) -> None:
    monkeypatch.setattr(preflight, '_full', lambda needs: [])
    monkeypatch.setenv('KEYSTONE_CASSANDRA_CONTACT_POINTS', '127.0.0.1:1')
    (said,) = problems()
    assert 'No Cassandra answers' in said


def keep(state: Path, name: str, checkout: str) -> Path:
    directory = state / f'demo-{name}'
    directory.mkdir(parents=True, mode=0o700)
    kept.Kept(str(directory), len(name), checkout, []).save()
    return directory


def test_a_checkout_stops_its_own_demos(state, capsys) -> None:
    state.mkdir(mode=0o700)
    own = keep(state, 'own', kept.CHECKOUT)
    other = keep(state, 'other', '/some/other checkout')
    assert preflight.main(['--stop', '--port', '1']) == 0
    assert own.exists()
    assert preflight.main(['--stop']) == 0
    assert not own.exists()
    assert other.exists()
    assert 'of others: 1' in capsys.readouterr().out
    assert preflight.main(['--stop']) == 0, 'again is no failure'
    assert preflight.main(['--stop', '--all']) == 0
    assert not other.exists()
    assert preflight.main(['--stop', '--all']) == 0
    assert capsys.readouterr().out.endswith('No demo is left running.\n')


def test_no_proxy_keeps_what_was_given() -> None:
    assert no_proxy({})['NO_PROXY'] == '127.0.0.1,localhost'
    both = no_proxy({'NO_PROXY': 'a,localhost'})
    assert both['NO_PROXY'] == both['no_proxy'] == '127.0.0.1,localhost,a'


def test_openrc_in_another_shell(tmp_path, monkeypatch) -> None:
    for name in 'no_proxy', 'NO_PROXY':
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / 'a file'
    file.write_text(demo.openrc('http://127.0.0.1:1', "it's $a secret"))
    done = subprocess.run(
        ['sh', '-euc', f'. {shlex.quote(str(file))}; env; command -v env'],
        env={'PATH': os.environ['PATH'], 'OS_CLOUD': 'other', 'OSLO': '1'},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(
        line.split('=', 1) for line in done.stdout.splitlines() if '=' in line
    )
    assert found['OS_PASSWORD'] == "it's $a secret"
    assert 'OS_CLOUD' not in found
    assert found['OSLO'] == '1'
    assert found['NO_PROXY'] == '127.0.0.1,localhost'
    assert found['PATH'].endswith(f':{Path(sys.executable).parent}')


def test_lines_for_another_shell(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv('TMPDIR', raising=False)
    monkeypatch.delenv('KEYSTONE_CASSANDRA_STATE_DIR', raising=False)
    plain = shlex.split(demo.stop_line())
    assert plain == [str(kept.TOOLS / 'demo'), '--stop']
    folder = tmp_path / 'a b'
    monkeypatch.setenv('KEYSTONE_CASSANDRA_STATE_DIR', str(folder))
    assert shlex.split(demo.stop_line()) == [
        f'KEYSTONE_CASSANDRA_STATE_DIR={folder}',
        *plain,
    ]
    monkeypatch.setenv('KEYSTONE_CASSANDRA_VENV', '/v v')
    assert "KEYSTONE_CASSANDRA_VENV='/v v'" in demo.shell_line('127.1.2.3')


@pytest.mark.parametrize('columns', [40, 79, 200])
def test_the_end_fits(columns, monkeypatch, capsys) -> None:
    monkeypatch.setenv('COLUMNS', str(columns))
    narrator = Narrator()
    narrator.step('A step with a title', 'what it shows in not so few words')
    narrator.expect(True, 'seen, and told in a sentence of some length')
    narrator.close(
        left=[('Keystone at http://127.0.0.1:12345', 'until it is stopped')],
        advice=[('tools/demo --keep', 'use openstack against it')],
    )
    out = capsys.readouterr().out
    assert out.isascii()
    for line in out.splitlines():
        assert len(line) <= min(columns, 79)
        assert line == line.rstrip()
    words = ' '.join(out.split())
    for text in (
        '1. A step with a title',
        'ok seen, and told',
        'All 1 steps went as expected.',
        'What was shown A step',
        'What is left running Keystone at',
        'What to try next tools/demo --keep',
    ):
        assert text in words


def test_progress_where_lines_cannot_be_written_over(capsys) -> None:
    narrator = Narrator()
    with narrator.task('something') as progress:
        progress('half of it')
    with narrator.task('more'):
        pass
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first == '   something ...'
    assert second == '      half of it'
    assert third.startswith('   ... ')
    assert fourth.startswith('   more ... ')


def test_until() -> None:
    answers = iter([0, None, 'there'])
    assert until(lambda: next(answers), 'it') == 'there'
    with pytest.raises(WaitedInVain, match='in vain for it'):
        until(lambda: False, 'it', timeout=0)
