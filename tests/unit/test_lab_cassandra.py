# SPDX-License-Identifier: Apache-2.0
"""The parts of the lab that need no server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from lab import TOOLS, LabError, cassandra_install, ports, processes
from lab.cassandra import (
    CONTACT_POINTS,
    Cluster,
    parse_contact_points,
    spread,
)
from lab.cassandra_node import Node, Shape, cassandra_yaml
from lab.waiting import until


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / 'state'
    monkeypatch.setenv('KEYSTONE_CASSANDRA_STATE_DIR', str(path))
    return path


def settings(text):
    return {
        name: json.loads(value)
        for name, value in (line.split(': ', 1) for line in text.splitlines())
    }


class TestYaml:
    def render(self, **options):
        shape = Shape(['dc1'], **options)
        return settings(
            cassandra_yaml(shape, '127.1.2.3', '127.1.2.1', '127.1.2.3')
        )

    def test_listens_on_its_own_address_only(self):
        found = self.render()
        assert found['listen_address'] == '127.1.2.3'
        assert found['rpc_address'] == '127.1.2.3'
        seeds = found['seed_provider'][0]['parameters'][0]['seeds']
        assert seeds == '127.1.2.1:7000'

    def test_shift_moves_all_ports_but_the_given_one(self):
        found = self.render(shift=10_000, port=1234)
        assert found['storage_port'] == 17000
        assert found['ssl_storage_port'] == 17001
        assert found['native_transport_port'] == 1234

    def test_commit_log(self):
        assert 'commitlog_sync_period' in self.render()
        batch = self.render(commitlog_sync='batch')
        assert batch['commitlog_sync'] == 'batch'
        # Cassandra refuses to start with both.
        assert 'commitlog_sync_period' not in batch
        with pytest.raises(ValueError, match="not 'never'"):
            self.render(commitlog_sync='never')

    def test_overrides_replace_add_and_take_away(self):
        found = self.render(
            yaml={
                'num_tokens': 16,
                'authenticator': {'class_name': 'PasswordAuthenticator'},
                'auto_snapshot': None,
            }
        )
        assert found['num_tokens'] == 16
        assert found['authenticator']['class_name'] == 'PasswordAuthenticator'
        assert 'auto_snapshot' not in found

    def test_only_the_owner_can_read_the_files(self, tmp_path):
        Node(2, Shape(['dc1', 'dc2']), str(tmp_path)).configure()
        for path in (tmp_path / 'conf').iterdir():
            assert path.stat().st_mode & 0o077 == 0
        rack = (tmp_path / 'conf/cassandra-rackdc.properties').read_text()
        assert 'dc=dc2\n' in rack


class TestAddresses:
    @pytest.fixture(autouse=True)
    def folder(self, state):
        self.claims = state / 'blocks'
        state.mkdir(mode=0o700)
        self.directory = str(state)

    def take(self, name='mine', nodes=1, wanted=(9042,), **options):
        return ports.take(self.directory, name, nodes, wanted, **options)

    def test_two_clusters_get_two_blocks(self):
        assert self.take() != self.take()

    def test_a_name_keeps_its_block(self):
        first, _ = self.take(nodes=3)
        assert first.startswith('127.')
        ports.release(first, self.directory)
        assert self.take(nodes=3) == (first, 0)

    def test_a_dead_claim_is_given_away(self):
        gone = os.path.join(self.directory, 'gone')
        first, _ = ports.take(gone, 'mine', 1, (9042,))
        assert self.take()[0] == first

    def test_released_by_its_holder_only(self):
        first, _ = self.take()
        ports.release(first, '/another')
        assert (self.claims / first).exists()
        ports.release(first, self.directory)
        assert not (self.claims / first).exists()

    def test_a_port_taken_everywhere_is_moved(self):
        with socket.socket() as taken:
            # Below the ports that the system gives to clients.
            for port in range(20_000, 30_000):
                with contextlib.suppress(OSError):
                    taken.bind(('0.0.0.0', port))
                    break
            taken.listen()
            assert self.take(wanted=(port,))[1] > 0
            with pytest.raises(LabError, match=f'port {port} is taken'):
                self.take(wanted=(), fixed=(port,))


class TestStateDirectory:
    def test_a_folder_that_others_can_write_is_refused(self, state):
        state.mkdir()
        state.chmod(0o777)
        with pytest.raises(LabError, match='writable for you alone'):
            ports.state_directory()


class TestContactPoints:
    @pytest.mark.parametrize(
        ('text', 'expected'),
        [
            ('a', (['a'], 9042)),
            ('a, b', (['a', 'b'], 9042)),
            ('a:19042,b', (['a', 'b'], 19042)),
            ('::1', (['::1'], 9042)),
            ('[::1]:19042', (['::1'], 19042)),
        ],
    )
    def test_parsed(self, text, expected):
        assert parse_contact_points(text) == expected

    @pytest.mark.parametrize('text', ['', ' , ', 'a:1,b:2', 'a:x'])
    def test_refused(self, text):
        with pytest.raises(LabError, match=CONTACT_POINTS):
            parse_contact_points(text)

    def test_an_existing_cluster_is_left_alone(self, monkeypatch):
        monkeypatch.setenv(CONTACT_POINTS, '127.0.0.9:1')
        with Cluster.start() as cluster:
            assert cluster.contact_points_text == '127.0.0.9:1'
            for refused in ('stop', 'kill', 'start', 'pause', 'resume'):
                with pytest.raises(LabError, match=CONTACT_POINTS):
                    getattr(cluster.nodes[0], refused)()
            with pytest.raises(LabError, match=CONTACT_POINTS):
                cluster.nodes[0].nodetool('flush')


def test_what_a_node_sees_is_what_it_wrote_last(tmp_path):
    shape = Shape(['dc1'] * 3, prefix='127.0.0', shift=10)
    node, peer, other = (
        Node(number, shape, str(tmp_path)) for number in (1, 2, 3)
    )
    log = tmp_path / 'system.log'
    seen = []
    for line in (
        'Node /127.0.0.2:7010 is now part of the cluster',
        'InetAddress /127.0.0.2:7010 is now UP',
        'InetAddress /127.0.0.3:7010 is now UP',
        'InetAddress /127.0.0.2:7010 is now DOWN',
        'InetAddress /127.0.0.2:7010 is now UP',
    ):
        with log.open('a') as file:
            print(line, file=file)
        seen.append((node.sees_up(peer), node.sees_up(other)))
    assert [of_peer for of_peer, _ in seen] == [False, True, True, False, True]
    assert [of_other for _, of_other in seen] == [False] * 2 + [True] * 3


def test_nodes_are_spread_over_datacenters():
    assert spread(1, 1) == ['dc1']
    assert spread(3, 2) == ['dc1', 'dc1', 'dc2']
    assert spread([1, 2], 2) == ['dc1', 'dc2', 'dc2']
    with pytest.raises(LabError, match='1 nodes in 2 datacenters'):
        spread(1, 2)


class TestJava:
    def program(self, folder, name, text):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)

    @pytest.fixture(autouse=True)
    def alone(self, tmp_path, monkeypatch):
        """No Java but what the test makes."""
        self.bin = tmp_path / 'bin'
        monkeypatch.setenv('PATH', f'{self.bin}')
        monkeypatch.delenv('JAVA_HOME', raising=False)
        monkeypatch.setattr(cassandra_install.glob, 'glob', lambda pattern: [])

    def test_missing(self):
        with pytest.raises(LabError, match='no java was found') as caught:
            cassandra_install.find_java()
        assert 'openjdk-17-jre-headless' in str(caught.value)

    def test_too_new(self):
        self.program(
            self.bin, 'java', """echo 'openjdk version "21.0.2"' >&2"""
        )
        with pytest.raises(LabError, match='java is Java 21'):
            cassandra_install.find_java()

    @pytest.mark.parametrize(
        ('text', 'version'),
        [('11.0.22', 11), ('17', 17), ('1.8.0_402', 8)],
    )
    def test_version(self, text, version):
        self.program(
            self.bin, 'java', f"""echo 'openjdk version "{text}"' >&2"""
        )
        java = str(self.bin / 'java')
        assert cassandra_install.java_version(java) == version

    def test_java_home_comes_first(self, tmp_path, monkeypatch):
        self.program(
            self.bin, 'java', """echo 'openjdk version "17.0.1"' >&2"""
        )
        home = tmp_path / 'home'
        self.program(
            home / 'bin', 'java', """echo 'openjdk version "11.0.1"' >&2"""
        )
        monkeypatch.setenv('JAVA_HOME', str(home))
        assert cassandra_install.find_java().version == 11

    def test_maven_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
        with pytest.raises(LabError, match='apt-get install maven'):
            cassandra_install.find_jars()


@pytest.mark.parametrize('module', ['cassandra_cli', 'benchmark.table'])
def test_help_and_mistakes_need_no_package(module):
    for arguments, code in (['--help'], 0), (['no such command'], 2):
        done = subprocess.run(
            # Without site-packages.
            [sys.executable, '-S', '-m', f'lab.{module}', *arguments],
            env={**os.environ, 'PYTHONPATH': str(TOOLS)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert 'usage: tools/' in done.stdout + done.stderr


OWNER = """
import os, sys, time
from lab.processes import Group
group = Group(sys.argv[1], remove=True)
child = group.spawn([sys.executable, '-c', 'import time; time.sleep(600)'])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_group_dies_with_its_owner(tmp_path):
    directory = tmp_path / 'group'
    directory.mkdir()
    owner = subprocess.Popen(
        [sys.executable, '-c', OWNER, str(directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    with owner, owner.stdout:
        child = psutil.Process(int(owner.stdout.readline()))
        try:
            assert child.is_running()
            # It cannot be seen while it is being set up.
            while child.pid not in processes.marked(str(directory)):
                assert child.is_running()
            # A folder whose name begins alike is another one.
            assert not processes.marked(str(directory)[:-1])
            assert child.pid in processes.marked(str(tmp_path))
        finally:
            owner.send_signal(signal.SIGKILL)
    child.wait(60)
    until(lambda: not directory.exists(), 'the folder to go')


def test_a_released_group_stays(tmp_path):
    group = processes.Group(str(tmp_path), remove=True)
    child = group.spawn([sys.executable, '-c', 'import time; time.sleep(600)'])
    try:
        group.release()
        assert child.poll() is None
        assert tmp_path.exists()
        until(lambda: processes.marked(str(tmp_path)), 'the child to be seen')
        processes.kill_marked(str(tmp_path))
        assert processes.marked(str(tmp_path)) == []
    finally:
        child.kill()
        child.wait()
