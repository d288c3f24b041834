# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB server of one's own, for comparisons.

It keeps MariaDB's built-in settings, so each commit is durable before it is
acknowledged; the machine's own configuration files and a server that runs on
the machine are not touched.  It ends with its owner, also if that is killed.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import pymysql

from lab import LabError, ports
from lab.command import output
from lab.processes import Group
from lab.server import tail, write_private
from lab.waiting import until

_USER = 'bench'
_PORT = 3306
_PATH = os.pathsep.join((os.environ.get('PATH', ''), '/usr/sbin', '/sbin'))

#: What decides when a commit is on disk, and what is kept in memory.
_SETTINGS = (
    'version',
    'innodb_flush_log_at_trx_commit',
    'sync_binlog',
    'log_bin',
    'innodb_buffer_pool_size',
)


class MariaDB:
    """A server with databases of its own, while its context lasts.

    :ivar directory: data, socket and log; removed at the end.
    """

    def __init__(self) -> None:
        self.directory = Path(
            tempfile.mkdtemp(prefix='mariadb-', dir=ports.state_directory())
        )
        self._password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[Any] | None = None
        self._group = Group(str(self.directory), remove=True)
        # An address of its own: no other program takes the port meanwhile.
        self._prefix, shift = ports.take(
            str(self.directory), None, 1, (_PORT,)
        )
        self._address = f'{self._prefix}.1'
        self._port = _PORT + shift

    def __enter__(self) -> Self:
        """Make a data folder and serve it.

        :raises LabError: if the programs are missing or the server does not
            come up; the text tells why.
        """
        try:
            make_data(self.directory)
            self._serve()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and remove its folder; may be called again."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self._group.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        ports.release(self._prefix, str(self.directory))

    def create(self, database: str) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        self.ask(f'CREATE DATABASE {database}')
        return (
            f'mysql+pymysql://{_USER}:{self._password}@{self._address}:'
            f'{self._port}/{database}?charset=utf8'
        )

    def load(
        self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        """Write rows into a table, as fast as the server can.

        :param table: ``database.table``.
        :raises LabError: if it did not take them all.
        """
        path = self.directory / 'rows'
        count = 0
        with path.open('w', encoding='utf-8') as file:
            for row in rows:
                count += 1
                print(*map(_value, row), sep='\t', file=file)
        taken = self.ask(
            f'LOAD DATA INFILE %s INTO TABLE {table}'
            f' CHARACTER SET utf8 ({", ".join(columns)})',
            str(path),
        )
        path.unlink()
        if taken != count:
            raise LabError(f'MariaDB took {taken} of {count} rows of {table}')
        # Else the optimiser knows nothing of the new rows for a while.
        self.ask(f'ANALYZE TABLE {table}')

    def settings(self) -> dict[str, Any]:
        """Return the version and what decides on durability and memory."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute('SELECT @@' + ', @@'.join(_SETTINGS))
            return dict(zip(_SETTINGS, cursor.fetchone(), strict=True))

    def ask(self, statement: str, *values: str) -> int:
        """Run a statement and return how many rows it is about."""
        with self._connect() as connection, connection.cursor() as cursor:
            count = cursor.execute(statement, values)
            connection.commit()
        return int(count)

    def _connect(self) -> 'pymysql.Connection[Any]':
        return pymysql.connect(
            host=self._address,
            port=self._port,
            user=_USER,
            password=self._password,
            connect_timeout=10,
        )

    def _serve(self) -> None:
        # The password stands in no command line, only here.
        start = self.directory / 'init.sql'
        write_private(
            start,
            f"CREATE USER '{_USER}'@'%' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL ON *.* TO '{_USER}'@'%';\n",
        )
        with (self.directory / 'log').open('wb') as log:
            self._process = self._group.spawn(
                command(
                    'mariadbd',
                    # In its data: a long path is no name of a socket.
                    '--socket=socket',
                    f'--pid-file={self.directory / "pid"}',
                    f'--bind-address={self._address}',
                    f'--port={self._port}',
                    f'--init-file={start}',
                    f'--secure-file-priv={self.directory}',
                    '--skip-name-resolve',
                ),
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        until(self._answers, 'MariaDB to take a log-in')
        start.unlink()

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            log = (self.directory / 'log').read_text(errors='replace')
            raise LabError(f'MariaDB did not start:\n{tail(log)}')
        with contextlib.suppress(pymysql.Error):
            self._connect().close()
            return True
        return False


def command(program: str, *options: str) -> list[str]:
    """Return the command of a program of MariaDB, run in a node's folder.

    Its data is the folder ``data`` there: the scripts take no path with a
    blank.

    :raises LabError: there is no such program.
    """
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise LabError(f'{program} is missing; MariaDB brings it along')
    # As root the server refuses to run unless told so in clear.
    root = ['--user=root'] if os.geteuid() == 0 else []
    return [path, '--no-defaults', *root, '--datadir=./data', *options]


def make_data(folder: Path, *options: str) -> None:
    """Make the folder ``data`` in this one."""
    output(
        'mariadb-install-db',
        command(
            'mariadb-install-db',
            '--auth-root-authentication-method=socket',
            '--skip-test-db',
            *options,
        ),
        cwd=folder,
    )


def _value(value: Any) -> str:
    r"""Return a value as ``LOAD DATA`` reads it; ``\N`` is NULL."""
    if value is None:
        return r'\N'
    if isinstance(value, dict):
        return json.dumps(value)
    return str(int(value) if isinstance(value, bool) else value)
