# SPDX-License-Identifier: Apache-2.0
"""One Cassandra node: start, stop, kill, pause, nodetool."""

import functools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from lab import LabError, cassandra_config, ports, processes, waiting
from lab.cassandra_config import JMX_PORT, STORAGE_PORT
from lab.cassandra_install import find_jars, find_java
from lab.processes import Group

# An OPTIONS frame of the native protocol, version 4; any node answers it,
# before authentication, with a SUPPORTED frame.
OPTIONS_FRAME = bytes((0x04, 0, 0, 0, 0x05, 0, 0, 0, 0))
SUPPORTED = 0x06


class Node:
    """A node of a cluster of the lab.

    Public attributes: ``number`` (from 1), ``address``, ``known_as`` (the
    address at which other nodes reach it), ``port`` (CQL), ``datacenter``,
    ``directory``, ``log`` (path), ``jmx`` (address and port),
    ``data_directory`` (with a folder for each keyspace).
    """

    def __init__(
        self,
        number: int,
        *,
        address: str,
        port: int,
        shift: int,
        datacenter: str,
        directory: str,
        heap_mb: int = 900,
        java_options: Sequence[str] = (),
        encrypted: bool = False,
        passwords: bool = False,
        known_as: str | None = None,
    ) -> None:
        self.number = number
        self.address = address
        self.known_as = known_as or address
        self.port = port
        self.datacenter = datacenter
        self.directory = directory
        self.log = os.path.join(directory, 'system.log')
        self.data_directory = os.path.join(directory, 'data')
        self.jmx = (address, JMX_PORT + shift)
        self.group: Group | None = None
        self.peers: Sequence[Node] = ()
        self._shift = shift
        self._heap_mb = heap_mb
        self._java_options = java_options
        self._encrypted = encrypted
        self._passwords = passwords
        self._child: subprocess.Popen[bytes] | None = None
        self._begin = 0  # of the log of the last start

    def __repr__(self) -> str:
        return f'<Node {self.number} {self.address} {self.datacenter}>'

    @property
    def process(self) -> int | None:
        """The number of the node's process, if it runs."""
        if self._child:
            return self._child.pid if self._child.poll() is None else None
        return next(iter(processes.marked(self.directory)), None)

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self, timeout: float = 300) -> None:
        """Start the node on the data that it has, and wait for it.

        It answers CQL then, and the other running nodes see it.

        :raises LabError: it did not start; the text ends with its log.
        """
        if self.running:
            return
        storage = STORAGE_PORT + self._shift
        for port in (self.port, storage, self.jmx[1]):
            if not ports.is_free(self.address, port):
                raise LabError(
                    f'cannot start a Cassandra node: another program listens'
                    f' on port {port} of {self.address}'
                )
        os.makedirs(os.path.join(self.directory, 'tmp'), exist_ok=True)
        new = not os.path.isdir(self.data_directory)
        peers = [
            peer for peer in self.peers if peer is not self and peer.running
        ]
        marks = [(peer, _size(peer.log)) for peer in peers]
        begin = self._begin = _size(self.log)
        self._launch()
        wait = functools.partial(self._until, timeout)
        wait(_logged, self, begin, 'Startup complete')
        if new and self._passwords and self.number == 1:
            # Nobody can log in before.
            wait(_logged, self, begin, 'Created default superuser role')
        wait(Node.answers, self)
        for peer, mark in marks:
            wait(_logged, peer, mark, f'{self.known_as}:{storage} is now UP')
            # Up is not yet a member that is given data, and a keyspace that
            # is made before would leave its datacenter out.
            if new:
                wait(_is_member, peer, self.known_as)

    def _launch(self) -> None:
        if self.group is None:
            raise LabError(
                f'{self!r} belongs to a cluster that was started elsewhere:'
                ' start it by start_stopped of the cluster'
            )
        command = cassandra_config.node_command(
            java=find_java(),
            jars=find_jars(),
            directory=self.directory,
            address=self.address,
            shift=self._shift,
            heap_mb=self._heap_mb,
            first=self.number == 1,
            options=self._java_options,
        )
        with open(self.log, 'ab') as log:
            self._child = self.group.spawn(
                command,
                mark=self.directory,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def stop(self, timeout: float = 60) -> None:
        """Stop the node in order; kill it if that takes too long."""
        processes.send(self.directory, signal.SIGTERM)
        processes.send(self.directory, signal.SIGCONT)  # if it was paused
        processes.wait_gone(self.directory, timeout)
        self.kill()

    def kill(self) -> None:
        """End the node at once, as a crash does."""
        processes.kill_marked(self.directory)
        if self._child:
            self._child.kill()
            self._child.wait()
            self._child = None

    def pause(self) -> None:
        """Freeze the node: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def nodetool(self, *arguments: str, timeout: float = 120) -> str:
        """Run nodetool, as ``nodetool('flush', 'keystone', 'token')``.

        Returns its standard output.

        :raises LabError: it failed; the text says how.
        """
        command = cassandra_config.nodetool_command(
            java=find_java(),
            jars=find_jars(),
            directory=self.directory,
            address=self.address,
            shift=self._shift,
        )
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f'nodetool {" ".join(arguments)} failed: {said}')
        return done.stdout

    def answers(self) -> bool:
        """Whether the CQL port answers now."""
        try:
            with socket.create_connection(
                (self.address, self.port), timeout=2
            ) as connection:
                if self._encrypted:
                    return True
                connection.sendall(OPTIONS_FRAME)
                header = connection.recv(9)
                return len(header) > 4 and header[4] == SUPPORTED
        except OSError:
            return False

    def sees_up(self, peer: 'Node') -> bool:
        """Whether this node takes another one for up, by its log.

        By what it has written since this process last started it.
        """
        about = f'{peer.known_as}:{STORAGE_PORT + peer._shift} is now '
        with open(self.log, 'rb') as log:
            log.seek(self._begin)
            text = log.read()
        up, down = (text.rfind(f'{about}{s}'.encode()) for s in ('UP', 'DOWN'))
        return up > down

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the node's log."""
        try:
            with open(self.log, errors='replace') as file:
                tail = file.readlines()[-lines:]
        except FileNotFoundError:
            return '(no log was written)'
        # Some lines hold the whole class path.
        return '\n'.join(line.rstrip()[:300] for line in tail)

    def _signal(self, number: int) -> None:
        if not processes.send(self.directory, number):
            raise LabError(f'{self!r} does not run')

    def _until(
        self, timeout: float, condition: Callable[..., bool], *arguments: Any
    ) -> None:
        """Wait for what a start brings, as long as the node lives."""

        def come() -> bool:
            if self._child and self._child.poll() is not None:
                raise LabError(f'exit code {self._child.returncode}')
            return condition(*arguments)

        what = f'{condition.__name__} {arguments}'
        try:
            waiting.until(come, what, timeout)
        except LabError as error:
            # The folder of a cluster that did not start is removed.
            kept = os.path.join(ports.state_directory(), 'failed-start.log')
            shutil.copyfile(self.log, kept)
            raise LabError(
                f'the Cassandra node on {self.address} did not start:'
                f' {error}. Its whole log is in {kept}; the end of it:\n'
                f'{self.log_tail()}'
            ) from error


def _logged(node: Node, begin: int, text: str) -> bool:
    """Whether a node's log has the text after a position."""
    with open(node.log, 'rb') as log:
        log.seek(begin)
        return text.encode() in log.read()


def _is_member(peer: Node, address: str) -> bool:
    """Whether a node is one that is given data, as another one sees it."""
    return f'UN  {address} ' in peer.nodetool('status')


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
