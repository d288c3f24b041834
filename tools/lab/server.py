# SPDX-License-Identifier: Apache-2.0
"""A real Keystone under gunicorn, on a loopback port of its own.

:class:`Keystone` writes ``keystone.conf`` and what belongs to it into a
directory, runs the management commands, and serves the WSGI application from
pre-forked workers: the application is loaded once, before the fork, as a
careful operator does it.  Used by ``tools/demo`` and by tests.
"""

import contextlib
import dataclasses
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.fernet import Fernet

from keystone_cassandra_token.conf.options import DRIVER, namespaces
from lab import TOOLS, LabError, start
from lab.cassandra import Cluster
from lab.client import REGION, direct_session
from lab.processes import MARK, Group
from lab.waiting import PATIENCE, WaitedInVain, until

#: Sections of keystone.conf: option -> value (str, int, bool, list of str).
Settings = Mapping[str, Mapping[str, Any]]

#: What lets everything be there: each driver of the package.
ALL_DRIVERS: Settings = {
    section: {option: DRIVER} for section, option in namespaces().values()
}
#: What selects our drivers; leave it out for a Keystone on its own drivers.
CASSANDRA_DRIVERS: Settings = {
    section: ALL_DRIVERS[section] for section in ('token', 'revoke', 'trust')
}


def points_at(cluster: Cluster, keyspace: str) -> Settings:
    """Return the options that name a cluster and a keyspace."""
    return {
        'database': {'cassandra_node_ips': cluster.contact_points},
        'cassandra': {'port': cluster.port, 'keyspace': keyspace},
    }


def merge(*several: Settings) -> dict[str, dict[str, Any]]:
    """Return the options of all; a later value wins."""
    merged: dict[str, dict[str, Any]] = {}
    for settings in several:
        for name, options in settings.items():
            merged.setdefault(name, {}).update(options)
    return merged


#: Has the module that Python runs at its start.
START = Path(start.__file__).parent


class ServerError(LabError):
    """A command or the server failed; the message ends with its log."""


@dataclasses.dataclass(eq=False)
class Keystone:
    """One Keystone: its files, its commands, its server."""

    directory: Path  # where its files go; made if missing
    #: Options over the defaults of :meth:`configure`.
    settings: Settings = dataclasses.field(default_factory=dict)
    _: dataclasses.KW_ONLY
    host: str = '127.0.0.1'  # the address it listens on
    port: int = 0  # of that address; 0 means a free one
    workers: int = 2  # processes that serve
    #: Of each process.  Keystone 30 keeps the token of a request where all
    #: threads of a process see it: with more than one, a request can be
    #: judged by the roles of another.
    threads: int = 1
    config_files: Sequence[Path] = ()  # further ones of oslo.config; they win
    #: Whether there is an SQL database, of SQLite unless the settings name
    #: another one.
    sql: bool = True
    keepalive: int = 65  # seconds for which an idle connection stays open
    #: Further variables of the server.
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Enters the network of the host for the current thread.
    inside: Callable[[], contextlib.AbstractContextManager[object]] = (
        contextlib.nullcontext
    )

    def __post_init__(self) -> None:
        self.directory = self.directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        # Who names a database has one of another kind.
        own = 'connection' not in self.settings.get('database', {})
        self.database = (
            self.directory / 'keystone.db' if self.sql and own else None
        )
        self.environment = dict(self.environment)
        self.log_file = self.directory / 'keystone.log'
        self._commands_log_file = self.directory / 'commands.log'
        self.configuration = self.directory / 'keystone.conf'
        further = [path.absolute() for path in self.config_files]
        self.config_files = [self.configuration, *further]
        # Bound here and handed down, so that nobody takes it meanwhile.
        self._listener: socket.socket | None = self._listen()
        self.port = self._listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._group: Group | None = None
        self.keys = self.directory / 'keys'
        if not self.keys.exists():
            self.keys.mkdir(mode=0o700)
            for name in '0', '1':  # a staged and a primary key
                key = Fernet.generate_key().decode()
                write_private(self.keys / name, key)
        self.configure(self.settings)

    @property
    def url(self) -> str:
        """Where the server answers, without ``/v3``."""
        return f'http://{self.host}:{self.port}'

    @property
    def pid(self) -> int | None:
        """Process id of the master, or None while it is stopped."""
        return self._process.pid if self._process else None

    def configure(self, settings: Settings) -> None:
        """Write ``keystone.conf``; a running server needs a restart."""
        self.settings = settings
        keys = {'key_repository': self.keys}
        defaults: Settings = {
            'DEFAULT': {'use_stderr': True, 'debug': False},
            # Longer ones would be cut by bcrypt, with a warning each time.
            'identity': {'max_password_length': 72},
            # Without SQL nothing is named, and nothing could be opened.
            # Workers wait for each other's writes.
            'database': {'connection': f'sqlite:///{self.database}?timeout=30'}
            if self.database
            else {},
            'fernet_tokens': keys,
            'fernet_receipts': keys,
            'credential': keys,
        }
        lines = []
        for section, options in merge(defaults, settings).items():
            lines.append(f'[{section}]')
            lines += [f'{k} = {_value(v)}' for k, v in options.items()]
        write_private(self.configuration, '\n'.join([*lines, '']))

    # -- commands

    def manage(self, *arguments: str, **environment: str) -> None:
        """Run ``keystone-manage``, as :meth:`run` does."""
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
        output = ''
        with self._commands_log_file.open('a+', errors='replace') as log:
            print('$', command, *arguments, file=log, flush=True)
            start = log.tell()
            with self.inside():
                process = subprocess.Popen(
                    [program, *files, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env={
                        **os.environ,
                        'PYTHONPATH': _module_path(),
                        **environment,
                        'PYTHONUNBUFFERED': '1',
                        # Who kills all that is ours ends it, too.
                        MARK: str(self.directory),
                    },
                    cwd=self.directory,
                )
            with process:
                assert process.stdout is not None
                try:
                    for line in process.stdout:
                        output += line
                        progress(line.rstrip('\n'))
                except BaseException:
                    process.kill()
                    raise
            log.seek(start)
            errors = log.read()
            log.write(output)
        if process.returncode:
            raise ServerError(
                f'{command} {" ".join(arguments)} exited with'
                f' {process.returncode}:\n{tail(output + errors)}'
            )
        return output

    def bootstrap(self, password: str, region: str = REGION) -> None:
        """Make the SQL tables, if there is SQL, and the user ``admin``.

        :param region: the region of the catalog whose endpoints this is.
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
            *(
                f'--bootstrap-{interface}-url={self.url}/v3'
                for interface in ('public', 'internal', 'admin')
            ),
            f'--bootstrap-region-id={region}',
            OS_BOOTSTRAP_PASSWORD=password,
        )

    # -- the server

    def start(self) -> None:
        """Start the server and wait until it answers ``GET /v3``.

        It ends with this process, unless :meth:`release` is called.

        :raises ServerError: if it ends or never answers.
        """
        listener = self._listener or self._listen()
        self._listener = None
        with listener, self.log_file.open('ab') as log, self.inside():
            self._configure_gunicorn(listener.fileno())
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
            until(self._answers, f'an answer of Keystone at {self.url}')
        except WaitedInVain as error:
            self.stop()
            raise ServerError(f'{error}:\n{tail(self.log())}') from error
        except BaseException:
            self.stop()
            raise

    def _configure_gunicorn(self, listener: int) -> None:
        # Read by gunicorn from its working directory.  Keystone parses the
        # command line of its process, so nothing may stand there.
        settings = {
            'wsgi_app': 'lab.wsgi:application',
            'bind': f'fd://{listener}',
            'workers': self.workers,
            # Open connections that are idle keep no worker busy, whatever
            # the threads.
            'worker_class': 'gthread',
            'threads': self.threads,
            'keepalive': self.keepalive,
            'preload_app': True,
            'timeout': 60,
            'graceful_timeout': 2,
            'worker_tmp_dir': str(self.directory),
            'control_socket_disable': True,
            'proc_name': 'keystone',
        }
        lines = [f'{name} = {value!r}\n' for name, value in settings.items()]
        (self.directory / 'gunicorn.conf.py').write_text(''.join(lines))

    def _environment(self) -> dict[str, str]:
        environment = os.environ | self.environment
        environment['PYTHONPATH'] = _module_path(TOOLS)
        environment['OS_KEYSTONE_CONFIG_FILES'] = ';'.join(
            map(str, self.config_files)
        )
        environment.pop('OS_KEYSTONE_CONFIG_DIR', None)
        environment.pop('GUNICORN_CMD_ARGS', None)
        return environment

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f'Keystone ended:\n{tail(self.log())}')
        # The socket listens before anybody accepts: an answer counts.
        with contextlib.suppress(OSError):
            return self.status('/v3', timeout=PATIENCE) == 200
        return False

    def status(self, path: str, timeout: float = 5) -> int:
        """Return the HTTP status of a GET on a connection of its own.

        :param timeout: seconds.
        """
        with self.inside(), direct_session() as session:
            answer = session.get(
                self.url + path, timeout=timeout, allow_redirects=False
            )
        return answer.status_code

    def _listen(self) -> socket.socket:
        """Return a socket that listens.

        :raises ServerError: if the port is taken.
        """
        try:
            with self.inside():
                return socket.create_server(
                    (self.host, self.port), backlog=128
                )
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise ServerError(f'port {self.port}: {reason}') from error

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
        if self._listener is not None:
            self._listener.close()
        if self._group is not None:
            self._group.kill()
        self._listener = self._group = self._process = None

    def release(self) -> None:
        """Let the server live on when this process ends.

        It is then stopped by ``kill_marked`` of its directory.
        """
        if self._group is not None:
            self._group.release()
        self._group = self._process = None

    def restart(self) -> None:
        """Stop the server and start it on the same port."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return all that the server has written."""
        if not self.log_file.exists():
            return ''
        return self.log_file.read_text(errors='replace')

    def commands_log(self) -> str:
        """Return all that the commands have written."""
        return self._commands_log_file.read_text(errors='replace')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _module_path(*folders: Path) -> str:
    """Return PYTHONPATH for Keystone, beginning with these folders."""
    now = os.environ.get('PYTHONPATH', '')
    # At the end: a test may have a module to be run at the start.
    path = [*map(str, folders), now, str(START)]
    return os.pathsep.join(filter(None, path))


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
    path.touch(0o600, exist_ok=False)
    path.write_text(text)


def tail(text: str) -> str:
    """Return the last lines of a text."""
    return '\n'.join(text.splitlines()[-15:])
