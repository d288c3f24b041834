# SPDX-License-Identifier: Apache-2.0
"""A real MariaDB server of one's own, for comparisons.

It keeps MariaDB's built-in settings, so each commit is durable before it is
acknowledged; the machine's own configuration files and a server that runs on
the machine are not touched.  It ends with its owner, also if that is killed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import pymysql

from lab import LabError
from lab.ports import free_port, state_directory
from lab.processes import Group

#: Programs without a system service: nothing starts by installing them.
PACKAGES = ('mariadb-server-core', 'mariadb-client-core')
_COMMAND = ('apt-get', 'install', '--no-install-recommends', *PACKAGES)
_USER = 'bench'
_ADDRESS = '127.0.0.1'
_PATH = os.pathsep.join((os.environ.get('PATH', ''), '/usr/sbin', '/sbin'))

#: Settings that decide when a commit is on disk.
DURABILITY = ('innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin')


class MariaDB:
    """A server with databases of its own; a context manager.

    :ivar directory: data, socket and log; removed at the end.
    """

    def __init__(self) -> None:
        self._server, self._install = _programs()
        self.directory = tempfile.mkdtemp(
            prefix='mariadb-', dir=state_directory()
        )
        self._password = secrets.token_urlsafe(16)
        self._port = 0
        self._process: subprocess.Popen[Any] | None = None
        self._group = Group(self.directory, remove=True)

    @classmethod
    def start(cls) -> MariaDB:
        """Make a data folder and serve it.

        :raises LabError: if the programs are missing or the server does not
            come up; the text tells why.
        """
        server = cls()
        try:
            server._make_data()
            server._serve()
        except BaseException:
            server.stop()
            raise
        return server

    def stop(self) -> None:
        """Stop the server and remove its folder; may be called again."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process = None
        self._group.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> MariaDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create(self, database: str) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE {database}')
        return (
            f'mysql+pymysql://{_USER}:{self._password}@{_ADDRESS}:'
            f'{self._port}/{database}?charset=utf8'
        )

    def load(self, path: str, table: str, columns: tuple[str, ...]) -> int:
        r"""Read rows from a file of tabs and lines; ``\N`` is NULL.

        The server reads it, so it must lie in :attr:`directory`.

        :param table: ``database.table``.
        :returns: the number of rows.
        """
        with self.connect() as connection, connection.cursor() as cursor:
            count = cursor.execute(
                f'LOAD DATA INFILE %s INTO TABLE {table}'
                f' CHARACTER SET utf8 ({", ".join(columns)})',
                (path,),
            )
            connection.commit()
            # Else the optimiser knows nothing of the new rows for a while.
            cursor.execute(f'ANALYZE TABLE {table}')
        return int(count)

    def settings(self) -> dict[str, str]:
        """Return the version and what decides on durability."""
        names = ', '.join(f'@@{name}' for name in ('version', *DURABILITY))
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f'SELECT {names}, @@innodb_buffer_pool_size')
            values = cursor.fetchone()
        found = dict(
            zip(
                ('version', *DURABILITY, 'innodb_buffer_pool_size'),
                map(str, values),
                strict=True,
            )
        )
        return found

    def connect(self) -> pymysql.Connection[Any]:
        """Return a new connection, outside of any database."""
        return pymysql.connect(
            host=_ADDRESS,
            port=self._port,
            user=_USER,
            password=self._password,
            connect_timeout=10,
        )

    def _make_data(self) -> None:
        command = [
            self._install,
            '--no-defaults',
            f'--datadir={self._data}',
            f'--user={_account()}',
            '--auth-root-authentication-method=socket',
            '--skip-test-db',
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(
                'mariadb-install-db failed:\n'
                + _tail(done.stdout + done.stderr)
            )
        # The password stands in no command line, only here.
        with open(
            os.open(self._init_file, os.O_WRONLY | os.O_CREAT, 0o600), 'w'
        ) as file:
            file.write(
                f"CREATE USER '{_USER}'@'{_ADDRESS}'"
                f" IDENTIFIED BY '{self._password}';\n"
                f"GRANT ALL ON *.* TO '{_USER}'@'{_ADDRESS}';\n"
            )

    @property
    def _data(self) -> str:
        return os.path.join(self.directory, 'data')

    @property
    def _init_file(self) -> str:
        return os.path.join(self.directory, 'init.sql')

    @property
    def _log(self) -> str:
        return os.path.join(self.directory, 'mariadb.log')

    def _serve(self) -> None:
        self._port = free_port(_ADDRESS)
        command = [
            self._server,
            '--no-defaults',
            f'--user={_account()}',
            f'--datadir={self._data}',
            f'--socket={self.directory}/socket',
            f'--pid-file={self.directory}/pid',
            f'--bind-address={_ADDRESS}',
            f'--port={self._port}',
            f'--init-file={self._init_file}',
            f'--secure-file-priv={self.directory}',
            '--skip-name-resolve',
        ]
        with open(self._log, 'wb') as log:
            self._process = self._group.spawn(
                command, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
            except pymysql.Error as error:
                if self._process.poll() is not None or (
                    time.monotonic() > deadline
                ):
                    with open(self._log, errors='replace') as file:
                        text = _tail(file.read())
                    raise LabError(
                        f'MariaDB did not start ({error}):\n{text}'
                    ) from error
                time.sleep(0.1)
            else:
                os.unlink(self._init_file)
                return


def _programs() -> tuple[str, str]:
    """Return the paths of the server and of the maker of data folders."""
    if _find() is None:
        if os.geteuid() != 0 or not shutil.which('apt-get'):
            raise LabError(
                'MariaDB is missing, which this comparison needs. Install it'
                f' with: sudo {" ".join(_COMMAND)}'
            )
        _install_packages()
    found = _find()
    if found is None:
        raise LabError(
            f'mariadbd or mariadb-install-db is still missing after:'
            f' {" ".join(_COMMAND)}'
        )
    return found


def _find() -> tuple[str, str] | None:
    server = shutil.which('mariadbd', path=_PATH)
    install = shutil.which('mariadb-install-db', path=_PATH)
    return (server, install) if server and install else None


def _install_packages() -> None:
    print(
        f'MariaDB is missing; installing it: {" ".join(_COMMAND)}',
        file=sys.stderr,
        flush=True,
    )
    environment = os.environ | {'DEBIAN_FRONTEND': 'noninteractive'}
    command = [*_COMMAND[:2], '--yes', *_COMMAND[2:]]
    for attempt in (['apt-get', 'update'], command):
        done = subprocess.run(
            attempt,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode and attempt is command:
            raise LabError(
                f'{" ".join(command)} failed:\n{_tail(done.stdout)}'
            )


def _account() -> str:
    # As root the server refuses to run unless told so in clear.
    return pwd.getpwuid(os.geteuid()).pw_name


def _tail(text: str, lines: int = 15) -> str:
    return '\n'.join(text.splitlines()[-lines:])
