# SPDX-License-Identifier: Apache-2.0
"""MariaDB with Galera in the regions of a bed: one node in each.

It is what Keystone's SQL drivers have where several regions write.  All nodes
begin as copies of one data folder, so none has to fetch it from another one;
what a node misses while it is away it gets from the others' caches.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymysql

from lab import LabError
from lab.mariadb import command, make_data
from lab.processes import Group
from lab.regions import state_transfer
from lab.regions.bed import Bed
from lab.regions.parts import Signalled
from lab.regions.region import Region
from lab.server import tail, write_private
from lab.waiting import PATIENCE, until

#: Of the part of a region.
MARIADB = 'mariadb'
PORT = 3306
_GROUP_PORT = 4567
_USER = 'keystone'
#: MariaDB finds a program whose name ends with it.
_METHOD = 'bed'
#: Where Debian, Red Hat and SUSE put the library.
_FOLDERS = ('/usr/lib', '/usr/lib64', '/usr/lib/x86_64-linux-gnu')
_SETTINGS = (
    *('--binlog-format=ROW', '--innodb-autoinc-lock-mode=2'),
    # A crash of a process loses nothing by it: as the nodes of Cassandra.
    '--innodb-flush-log-at-trx-commit=2',
    *('--wsrep-on=ON', '--wsrep-cluster-name=bed'),
    *('--skip-name-resolve', '--socket=socket'),
)


def find_provider() -> str | None:
    """Return the path of Galera's library, None if it is not installed."""
    for folder in _FOLDERS:
        for found in Path(folder).glob('galera*/libgalera_smm.so'):
            return str(found)
    return None


class Node(Signalled):
    """A node: a part of its region.

    :param folder: its own, with the ``data`` that it begins with.
    :param addresses: of all nodes.
    """

    def __init__(
        self,
        region: Region,
        folder: Path,
        provider: str,
        addresses: Sequence[str],
        password: str,
        group: Group,
    ) -> None:
        super().__init__(folder)
        self.address = region.address
        self._region = region
        self._password = password
        self._group = group
        self.data = folder / 'data'
        self._process: subprocess.Popen[Any] | None = None
        self._log = folder / 'log'
        self._programs = folder / 'bin'
        _make_program(self._programs)
        options = {
            'gmcast.segment': region.number,
            # What it sends comes from there, too, and not from the device.
            'gmcast.listen_addr': f'tcp://{self.address}:{_GROUP_PORT}',
            # Where it takes what it has missed.
            'ist.recv_addr': f'{self.address}:{_GROUP_PORT + 1}',
        }
        told = ';'.join(f'{name}={value}' for name, value in options.items())
        self._options = (
            *_SETTINGS,
            f'--pid-file={folder / "pid"}',
            f'--bind-address={self.address}',
            f'--port={PORT}',
            f'--wsrep-provider={provider}',
            f'--wsrep-provider-options={told}',
            f'--wsrep-cluster-address=gcomm://{",".join(addresses)}',
            f'--wsrep-node-address={self.address}',
            f'--wsrep-node-name={region.datacenter}',
            f'--wsrep-sst-method={_METHOD}',
        )

    def start(self, first: bool = False) -> None:
        """Start the node and wait until it takes part.

        :param first: whether there is no other one yet.
        :raises LabError: if it ends, or never takes part.
        """
        if self.running:
            return
        # It would join as who has crashed, whom others may not yet miss.
        (self.data / 'gvwstate.dat').unlink(missing_ok=True)
        more = ['--wsrep-new-cluster'] if first else self._position()
        with self._log.open('ab') as log, self._region.entered():
            self._process = self._group.spawn(
                [*command('mariadbd', *self._options), *more],
                os.environ
                | {'PATH': f'{self._programs}:{os.environ["PATH"]}'},
                mark=self.directory,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        until(self._is_ready, f'MariaDB of {self._region} to take part')

    def _position(self) -> list[str]:
        """Return the option that tells where a crash has stopped it."""
        state = (self.data / 'grastate.dat').read_text()
        if not re.search(r'^seqno:\s*-1$', state, re.MULTILINE):
            return []
        told = subprocess.run(
            command(
                'mariadbd',
                *(*self._options, '--wsrep-recover', '--skip-networking'),
            ),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
        ).stderr
        found = re.search(r'Recovered position:\s*(\S+)', told)
        if not found:
            raise LabError(f'MariaDB does not know its place:\n{tail(told)}')
        return [f'--wsrep-start-position={found[1]}']

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise LabError(f'MariaDB ended:\n{tail(self.log())}')
        return self.answers()

    def stop(self) -> None:
        """Stop the node in order, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def kill(self) -> None:
        with contextlib.suppress(LabError):
            self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def answers(self) -> bool:
        """Whether it is one of a majority, and has what that has."""
        with contextlib.suppress(pymysql.Error, OSError):
            return bool(self.ask("SHOW STATUS LIKE 'wsrep_ready'")[1] == 'ON')
        return False

    def ask(self, statement: str) -> Sequence[Any]:
        """Run a statement and return the first row of what it finds.

        :raises pymysql.Error: if it is refused.
        """
        with self._region.entered():
            connection = pymysql.connect(
                host=self.address,
                port=PORT,
                user=_USER,
                password=self._password,
                connect_timeout=5,
                autocommit=True,
            )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() or ()

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return (
            f'mysql+pymysql://{_USER}:{self._password}@{self.address}:{PORT}'
            f'/{database}?charset=utf8'
        )

    def log(self) -> str:
        """Return all that it has written."""
        return self._log.read_text(errors='replace')


def start(bed: Bed, provider: str) -> list[Node]:
    """Start a node in each region of a bed; they end with it.

    :param provider: path of Galera's library.
    :raises LabError: if MariaDB is missing, or a node does not start.
    """
    password = secrets.token_urlsafe(16)
    group = Group(str(bed.directory / 'galera'), remove=False)
    bed.ends_with(group.kill)
    addresses = [region.address for region in bed.regions]
    nodes: list[Node] = []
    for region in bed.regions:
        folder = region.folder / MARIADB
        folder.mkdir()
        if nodes:
            # What a node joins with must have a place in the history.
            nodes[0].stop()
            shutil.copytree(nodes[0].data, folder / 'data')
        else:
            _make_data(folder, password)
        node = Node(region, folder, provider, addresses, password, group)
        region.parts[MARIADB] = node
        if not nodes:
            node.start(first=True)
        nodes.append(node)
    for node in nodes:
        node.start(first=node is nodes[0])
    until(functools.partial(_is_whole, nodes), 'all nodes of Galera to meet')
    return nodes


def _is_whole(nodes: Sequence[Node]) -> bool:
    wanted = str(len(nodes))
    return all(
        node.ask("SHOW STATUS LIKE 'wsrep_cluster_size'")[1] == wanted
        for node in nodes
    )


def _make_program(folder: Path) -> None:
    """Make the program with which MariaDB lets a node join."""
    folder.mkdir()
    program = folder / f'wsrep_sst_{_METHOD}'
    program.write_text(
        '#!/bin/sh\n'
        f'exec {shlex.quote(sys.executable)} -I'
        f' {shlex.quote(state_transfer.__file__)} "$@"\n'
    )
    program.chmod(0o755)


def _make_data(folder: Path, password: str) -> None:
    """Make the folder ``data`` in this one."""
    # The password stands in no command line, only here.
    users = folder / 'users.sql'
    write_private(
        users,
        'FLUSH PRIVILEGES;\n'
        f"CREATE USER '{_USER}'@'%' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON *.* TO '{_USER}'@'%';\n",
    )
    make_data(folder, f'--extra-file={users}')
    users.unlink()
