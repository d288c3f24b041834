# SPDX-License-Identifier: Apache-2.0
"""A real Keystone under gunicorn, on a loopback port of its own.

:class:`Keystone` writes ``keystone.conf`` and what belongs to it into a
directory, runs the management commands, and serves the WSGI application from
pre-forked workers: the application is loaded once, before the fork, as a
careful operator does it.  Used by ``tools/demo`` and by tests.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from lab import LabError
from lab.cassandra import Cluster
from lab.processes import Group
from lab.waiting import PATIENCE, WaitedInVain, until

TOOLS = Path(__file__).resolve().parent.parent
REGION = 'RegionOne'

#: Sections of keystone.conf: option -> value (str, int, bool, list of str).
Settings = Mapping[str, Mapping[str, Any]]

#: What selects our drivers; leave it out for a Keystone on its own drivers.
CASSANDRA_DRIVERS: Settings = {
    'token': {'provider': 'cassandra'},
    'revoke': {'driver': 'cassandra'},
    'trust': {'driver': 'cassandra'},
}
#: What lets everything be there.
ALL_DRIVERS: Settings = {
    **CASSANDRA_DRIVERS,
    **{
        section: {'driver': 'cassandra'}
        for section in (
            'application_credential',
            'assignment',
            'catalog',
            'credential',
            'domain_config',
            'endpoint_filter',
            'endpoint_policy',
            'federation',
            'identity',
            'identity_mapping',
            'oauth1',
            'policy',
            'resource',
            'role',
            'shadow_users',
            'unified_limit',
        )
    },
    'receipt': {'provider': 'cassandra'},
}


def points_at(cluster: Cluster, keyspace: str) -> Settings:
    """Return the options that name a cluster and a keyspace."""
    return {
        'database': {'cassandra_node_ips': cluster.contact_points},
        'cassandra': {'port': cluster.port, 'keyspace': keyspace},
    }


_GUNICORN = """\
# Read by gunicorn from its working directory.  Keystone parses the command
# line of its process, so nothing may stand there.
wsgi_app = 'lab.wsgi:application'
bind = 'fd://{listener}'
workers = {workers}
# Open connections that are idle keep no worker busy, whatever the threads.
worker_class = 'gthread'
threads = {threads}
keepalive = {keepalive}
preload_app = True
timeout = 60
graceful_timeout = 2
pidfile = {pidfile!r}
worker_tmp_dir = {directory!r}
control_socket_disable = True
proc_name = 'keystone'
"""


class ServerError(LabError):
    """A command or the server failed; the message ends with its log."""


class Keystone:
    """One Keystone: its files, its commands, its server.

    :param directory: where its files go; made if missing.
    :param settings: options over the defaults of :meth:`defaults`.
    :param port: port on 127.0.0.1; 0 means a free one.
    :param workers: processes that serve.
    :param threads: threads of each process.  Keystone 30 keeps the token of
        a request where all threads of a process see it: with more than one,
        a request can be judged by the roles of another.
    :param config_files: further oslo.config files; they win.
    :param sql: whether there is an SQL database, of SQLite unless ``settings``
        name another one.
    :param keepalive: seconds for which an idle connection stays open.
    :param environment: further environment variables of the server.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: Settings | None = None,
        *,
        port: int = 0,
        workers: int = 2,
        threads: int = 1,
        config_files: Sequence[str | Path] = (),
        sql: bool = True,
        keepalive: int = 65,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.sql = sql
        # Who names a database has one of another kind.
        own = 'connection' not in (settings or {}).get('database', {})
        self.database = self.directory / 'keystone.db' if sql and own else None
        self.workers = workers
        self.threads = threads
        self.keepalive = keepalive
        self.environment = dict(environment or {})
        self.log_file = self.directory / 'keystone.log'
        self._commands_log_file = self.directory / 'commands.log'
        self.configuration = self.directory / 'keystone.conf'
        self.config_files = [
            self.configuration,
            *(Path(name).absolute() for name in config_files),
        ]
        # Bound here and handed down, so that nobody takes it meanwhile.
        self._listener: socket.socket | None = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._group: Group | None = None
        self.configure(settings or {})

    @property
    def url(self) -> str:
        """Where the server answers, without ``/v3``."""
        return f'http://127.0.0.1:{self.port}'

    @property
    def pid(self) -> int | None:
        """Process id of the master, or None while it is stopped."""
        return self._process.pid if self._process else None

    def defaults(self) -> dict[str, dict[str, Any]]:
        """Return the options that a server has unless told otherwise."""
        keys = self.directory / 'keys'
        return {
            'DEFAULT': {'use_stderr': True, 'debug': False},
            # Longer ones would be cut by bcrypt, with a warning each time.
            'identity': {'max_password_length': 72},
            # Without SQL nothing is named, and nothing could be opened.
            'database': {
                # Workers wait for each other's writes.
                'connection': f'sqlite:///{self.database}?timeout=30',
            }
            if self.database
            else {},
            'fernet_tokens': {'key_repository': keys},
            'fernet_receipts': {'key_repository': keys},
            'credential': {'key_repository': keys},
        }

    def configure(self, settings: Settings) -> None:
        """Write ``keystone.conf``; a running server needs a restart."""
        self.settings = settings
        sections = merge(self.defaults(), settings)
        text = ''.join(_section(name, sections[name]) for name in sections)
        write_private(self.configuration, text)
        self._write_keys()

    def _write_keys(self) -> None:
        """Make a key repository: a primary and a staged key."""
        keys = self.directory / 'keys'
        if keys.exists():
            return
        keys.mkdir(mode=0o700)
        for name in '0', '1':
            write_private(keys / name, Fernet.generate_key().decode())

    # -- commands

    def manage(self, *arguments: str, **environment: str) -> None:
        """Run ``keystone-manage``.

        :raises ServerError: with the end of its output, if it fails.
        """
        self.run('keystone-manage', *arguments, **environment)

    def run(
        self,
        command: str,
        *arguments: str,
        progress: Callable[[str], None] = lambda line: None,
        **environment: str,
    ) -> str:
        """Run a command of the environment on this configuration.

        :param progress: is given each line of its standard output at once.
        :param environment: variables to add: where secrets go.
        :returns: what it wrote to standard output.
        :raises ServerError: with the end of its output, if it fails.
        """
        program = Path(sys.executable).parent / command
        files = [f'--config-file={name}' for name in self.config_files]
        lines = []
        with self._commands_log_file.open('a+', errors='replace') as log:
            print('$', command, *arguments, file=log, flush=True)
            start = log.tell()
            with subprocess.Popen(
                [program, *files, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | environment | {'PYTHONUNBUFFERED': '1'},
                cwd=self.directory,
            ) as process:
                assert process.stdout is not None
                try:
                    for line in process.stdout:
                        lines.append(line)
                        progress(line.rstrip('\n'))
                except BaseException:
                    process.kill()
                    raise
            log.seek(start)
            errors = log.read()
            log.write(''.join(lines))
        if process.returncode:
            raise ServerError(
                f'{command} {" ".join(arguments)} exited with'
                f' {process.returncode}:\n' + _tail(''.join(lines) + errors)
            )
        return ''.join(lines)

    def bootstrap(self, password: str) -> None:
        """Make the SQL tables, if there is SQL, and the user ``admin``.

        :raises ServerError: if a command fails.
        """
        if self.database:
            with contextlib.closing(
                sqlite3.connect(self.database)
            ) as database:
                # Kept in the file: readers do not wait for a writer.
                database.execute('PRAGMA journal_mode=WAL')
        if self.sql:
            self.manage('db_sync')
        self.manage(
            'bootstrap',
            f'--bootstrap-public-url={self.url}/v3',
            f'--bootstrap-internal-url={self.url}/v3',
            f'--bootstrap-admin-url={self.url}/v3',
            f'--bootstrap-region-id={REGION}',
            OS_BOOTSTRAP_PASSWORD=password,
        )

    # -- the server

    def start(self) -> None:
        """Start the server and wait until it answers ``GET /v3``.

        It ends with this process, unless :meth:`release` is called.

        :raises ServerError: if it ends or never answers.
        """
        listener = self._listener or _listen(self.port)
        self._listener = None
        with listener, self.log_file.open('ab') as log:
            (self.directory / 'gunicorn.conf.py').write_text(
                _GUNICORN.format(
                    listener=listener.fileno(),
                    workers=self.workers,
                    threads=self.threads,
                    keepalive=self.keepalive,
                    pidfile=str(self.directory / 'keystone.pid'),
                    directory=str(self.directory),
                )
            )
            self._group = Group(str(self.directory), remove=False)
            self._process = self._group.spawn(
                [sys.executable, '-m', 'gunicorn'],
                self._environment(),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _environment(self) -> dict[str, str]:
        environment = os.environ | self.environment
        path = [str(TOOLS), environment.get('PYTHONPATH', '')]
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, path))
        environment['OS_KEYSTONE_CONFIG_FILES'] = ';'.join(
            map(str, self.config_files)
        )
        environment.pop('OS_KEYSTONE_CONFIG_DIR', None)
        environment.pop('GUNICORN_CMD_ARGS', None)
        return environment

    def _wait(self) -> None:
        try:
            until(self._answers, f'an answer of Keystone at {self.url}')
        except WaitedInVain as error:
            raise ServerError(f'{error}:\n{_tail(self.log())}') from error

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f'Keystone ended:\n{_tail(self.log())}')
        # The socket listens before anybody accepts: an answer counts.
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.status('/v3', timeout=PATIENCE) == 200
        return False

    def status(self, path: str, timeout: float = 5) -> int:
        """Return the HTTP status of a GET on a connection of its own."""
        connection = http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=timeout
        )
        with contextlib.closing(connection):
            connection.request('GET', path)
            return connection.getresponse().status

    def stop(self) -> None:
        """Stop the server in order, if it runs; kill it if that is slow."""
        try:
            if self._process is not None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(15)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server at once, if it runs."""
        process, self._process = self._process, None
        group, self._group = self._group, None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if group is not None:
            group.kill()
        if process is not None:
            process.wait()

    def release(self) -> None:
        """Let the server live on when this process ends.

        It is then stopped by ``kill_marked`` of its directory.
        """
        self._process = None
        group, self._group = self._group, None
        if group is not None:
            group.release()

    def restart(self) -> None:
        """Stop the server and start it on the same port."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return all that the server has written."""
        try:
            return self.log_file.read_text(errors='replace')
        except FileNotFoundError:
            return ''

    def commands_log(self) -> str:
        """Return all that the commands have written."""
        return self._commands_log_file.read_text(errors='replace')

    def __enter__(self) -> Keystone:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def serving(keystone: Keystone) -> Iterator[Keystone]:
    """Start a server for the time of a ``with`` block."""
    try:
        keystone.start()
        yield keystone
    finally:
        keystone.stop()


def _listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback.

    :raises ServerError: if the port is taken.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(('127.0.0.1', port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ServerError(f'port {port}: {error.strerror}') from error
    return listener


def merge(*several: Settings) -> dict[str, dict[str, Any]]:
    """Return the options of all; a later value wins."""
    merged: dict[str, dict[str, Any]] = {}
    for settings in several:
        for name, options in settings.items():
            merged.setdefault(name, {}).update(options)
    return merged


def _section(name: str, options: Mapping[str, Any]) -> str:
    lines = [f'{key} = {_value(options[key])}' for key in options]
    return '\n'.join([f'[{name}]', *lines, '', ''])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ','.join(map(str, value))
    # oslo.config replaces $name.
    return str(value).replace('$', '$$')


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, 'w') as file:
        file.write(text)


def _tail(text: str, lines: int = 15) -> str:
    return '\n'.join(text.splitlines()[-lines:])
