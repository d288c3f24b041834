# SPDX-License-Identifier: Apache-2.0
"""The bed of regions: real namespaces and packets, and an echo in each.

Without Cassandra and Keystone, which take a minute to start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from lab import CHECKOUT, TOOLS, LabError, processes
from lab.regions import calls
from lab.regions.bed import Bed
from lab.regions.namespaces import Namespace, NotAllowed
from lab.regions.region import Region
from lab.waiting import until

#: Seconds.
PATIENCE = 60
PORT = 7
RTT_MS = 60.0

ECHO = """
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while text := self.request.recv(99):
            self.request.sendall(text)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
Server((sys.argv[1], int(sys.argv[2])), Echo).serve_forever()
"""


@pytest.fixture(scope='module', autouse=True)
def allowed() -> None:
    try:
        Namespace('10.77.1.254', []).close()
    except NotAllowed as error:
        pytest.skip(str(error))


@pytest.fixture(scope='module')
def bed() -> Iterator[Bed]:
    with Bed.start(nodes=0, rtt_ms=RTT_MS, seed=1) as bed:
        for region in bed.regions:
            region.spawn(
                *(sys.executable, '-I', '-c', ECHO),
                *(region.address, str(PORT)),
            )
        for region in bed.regions:
            until(
                lambda region=region: connects(region, region),  # type: ignore[misc]
                f'the echo of {region}',
                PATIENCE,
            )
        yield bed


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if 'bed' in request.fixturenames:
        bed = request.getfixturevalue('bed')
        bed.heal()
        bed.slow(RTT_MS)
        bed.lossy(0)


def connect(source: Region, target: Region) -> socket.socket:
    with source.entered():
        return socket.create_connection((target.address, PORT), PATIENCE)


def connects(source: Region, target: Region) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        connect(source, target).close()
        return True
    return False


def echo(connection: socket.socket, text: bytes) -> float:
    """Send and receive a text; return the seconds that it took."""
    begin = time.monotonic()
    connection.sendall(text)
    assert connection.recv(99) == text
    return time.monotonic() - begin


def lost(bed: Bed) -> int:
    return sum(way['lost'] for way in bed.wan.state()['ways'])


def packets(bed: Bed) -> int:
    return sum(way['packets'] + way['lost'] for way in bed.wan.state()['ways'])


def test_a_round_trip_takes_its_time(bed: Bed) -> None:
    with connect(bed.regions[0], bed.regions[2]) as connection:
        assert echo(connection, b'one') >= RTT_MS / 1000
        bed.slow(3 * RTT_MS, region=3)
        assert echo(connection, b'two') >= 3 * RTT_MS / 1000
        with connect(bed.regions[0], bed.regions[1]) as other:
            assert echo(other, b'three') >= RTT_MS / 1000


def test_a_region_does_not_need_the_wan_for_itself(bed: Bed) -> None:
    bed.cut(1)
    before = packets(bed)
    with connect(bed.regions[0], bed.regions[0]) as connection:
        echo(connection, b'one')
    assert packets(bed) == before


def test_nothing_passes_a_cut_and_all_of_it_comes_later(bed: Bed) -> None:
    first, second, third = bed.regions
    with (
        connect(first, second) as connection,
        connect(first, third) as other,
    ):
        bed.cut(2)
        before = lost(bed)
        connection.sendall(b'one')
        until(lambda: lost(bed) > before, 'a packet is lost', PATIENCE)
        echo(other, b'two')
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(99)
        connection.settimeout(PATIENCE)
        assert bed.state()['wan']['cut'] == [2]
        bed.heal(2)
        assert connection.recv(99) == b'one'


def test_what_is_lost_by_chance_is_sent_again(bed: Bed) -> None:
    bed.slow(0)
    before = lost(bed)
    bed.lossy(20)
    with connect(bed.regions[0], bed.regions[1]) as connection:
        while lost(bed) - before < 5:
            echo(connection, b'one')


def test_only_the_thread_that_enters_is_there(bed: Bed) -> None:
    def addresses() -> str:
        return Path('/proc/thread-self/net/fib_trie').read_text()

    first, second, _ = bed.regions
    before, seen = addresses(), []
    with first.entered():
        assert first.address in addresses()
        thread = threading.Thread(target=lambda: seen.append(addresses()))
        thread.start()  # who is started there is there
        thread.join()
        with second.entered():
            assert second.address in addresses()
        assert first.address in addresses()
    assert first.address in seen[0]
    assert addresses() == before
    assert first.address in first.run('cat', '/proc/net/fib_trie')


def test_what_is_not_there(bed: Bed) -> None:
    with pytest.raises(LabError, match='no region 4; there are 1 to 3'):
        bed.cut(4)
    with pytest.raises(LabError, match="has no 'keystone'"):
        bed.regions[0].kill('keystone')


def test_two_beds_at_once_and_nothing_is_left_of_one(bed: Bed) -> None:
    with Bed.start(regions=2, nodes=0, rtt_ms=0) as other:
        directory = other.directory
        child = other.regions[1].spawn('sleep', '600')
        with other.regions[0].entered(), pytest.raises(ConnectionRefusedError):
            # The same address, in another network.
            socket.create_connection((bed.regions[1].address, PORT), PATIENCE)
        assert processes.marked(str(directory))
    assert child.poll() is not None
    assert not directory.exists()
    assert not processes.marked(str(directory))
    with connect(bed.regions[0], bed.regions[1]) as connection:
        echo(connection, b'one')


class Command:
    """``tools/regions`` with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            'KEYSTONE_CASSANDRA_STATE_DIR': str(folder),
            'PYTHONPATH': f'{TOOLS}:{CHECKOUT}',
        }
        self.arguments = [sys.executable, '-P', '-m', 'lab.regions.cli']

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.arguments, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=self.environment,
        )


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    monkeypatch.setenv('KEYSTONE_CASSANDRA_STATE_DIR', str(tmp_path))
    command = Command(tmp_path)
    yield command
    command('down')


def network_of(pid: int) -> str:
    return os.readlink(f'/proc/{pid}/ns/net')


def networks() -> set[str]:
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            found.add(network_of(pid))
    return found


def test_nothing_is_left_of_a_keeper_that_is_killed(command: Command) -> None:
    up = command('up', '--regions', '2', '--nodes', '0', '--rtt', '30')
    assert up.returncode == 0, up.stderr
    assert '1 (dc1) 10.77.1.1' in up.stdout
    assert command('up', '--nodes', '0').returncode == 1
    assert command('cut', '2').returncode == 0
    assert '2 (dc2) 10.77.2.1' in command('status').stdout
    (folder,) = calls.folders()
    with subprocess.Popen(
        [*command.arguments, 'exec', '1', '--', 'cat'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=command.environment,
    ) as inside:
        assert inside.stdin
        assert inside.stdout
        inside.stdin.write(b'in there\n')
        inside.stdin.flush()
        assert inside.stdout.readline() == b'in there\n'
        network = network_of(inside.pid)
        assert network != network_of(os.getpid())
        os.kill(calls.keeper(), signal.SIGKILL)
        assert inside.wait(PATIENCE) == -signal.SIGKILL
    until(lambda: not folder.exists(), 'the folder is gone', PATIENCE)
    assert not processes.marked(str(folder))
    assert network not in networks()
    assert command('status').returncode == 3
    assert command('up', '--nodes', '0').returncode == 0
    assert command('down').stdout == 'All is stopped.\n'


def test_an_interrupted_start_leaves_nothing(command: Command) -> None:
    with subprocess.Popen(
        [*command.arguments, 'up', '--regions', '2', '--nodes', '1'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command.environment,
        # What runs in the background of a shell ignores it.
        preexec_fn=functools.partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),
    ) as up:
        assert up.stdout
        assert up.stderr
        assert up.stdout.readline() == 'The network of 2 regions is up.\n'
        (folder,) = calls.folders()
        until(
            lambda: (folder / 'cassandra/node1/system.log').exists(),
            'a node starts',
            PATIENCE,
        )
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE) == 130
        assert 'interrupted' in up.stderr.read()
    assert not folder.exists()
    assert not processes.marked(str(folder))
