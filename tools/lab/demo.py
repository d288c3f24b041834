# SPDX-License-Identifier: Apache-2.0
"""``tools/demo``: a real Keystone on a real Cassandra, step by step."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lab import LabError
from lab.cassandra import CONTACT_POINTS, Cluster
from lab.cassandra_install import find_jars, find_java
from lab.client import Client, credentials
from lab.expiry import ShortLife, write_configuration
from lab.narration import Narrator
from lab.people import People
from lab.ports import state_directory
from lab.processes import Group
from lab.server import (
    ALL_DRIVERS,
    Keystone,
    merge,
    points_at,
    stop_released,
    write_private,
)
from lab.story import LOCK_OUT, Story
from lab.tables import Tables

#: Of the folders below the state directory.
_PREFIX = 'demo-'
#: Its presence marks the folder of a demo that was left running.
_KEPT = 'kept.json'
#: Cassandra's folder in it.
_CLUSTER = 'cassandra'

_DESCRIPTION = """\
Start Cassandra and a Keystone that has no SQL database, and watch tokens,
trusts, revocations, users and credentials live and end in Cassandra. Takes
about three minutes; everything is stopped and removed at the end, also after
Ctrl-C.
"""
_EPILOG = """\
environment:
  ADMIN_PASSWORD       password of the user admin (default: a random one)
  KEYSTONE_CASSANDRA_CONTACT_POINTS
                       an existing cluster to use, host[,host][:port]; the
                       demo makes keyspaces of its own there and drops them
  NO_COLOR             no colours
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog='tools/demo',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--keep',
        action='store_true',
        help='leave all running, and say how to use it',
    )
    parser.add_argument(
        '--stop',
        action='store_true',
        help='stop what --keep left running (with --port: that one only)',
    )
    parser.add_argument(
        '--port',
        type=int,
        default=0,
        metavar='N',
        help='port of Keystone on 127.0.0.1 (default: a free one)',
    )
    parser.add_argument(
        '--workers',
        type=_workers,
        default=2,
        metavar='N',
        help='worker processes of Keystone, at least 2 (default: 2)',
    )
    parser.add_argument(
        '--config-file',
        type=_file,
        action='append',
        default=[],
        metavar='FILE',
        help='further oslo.config file for Keystone; may be repeated, the'
        ' last one wins',
    )
    options = parser.parse_args(argv)
    if options.keep and options.stop:
        parser.error('--keep and --stop exclude each other')
    return options


def _workers(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(
            'the demo shows that one worker sees what another did: at least 2'
        )
    return number


def _file(text: str) -> Path:
    if not os.access(text, os.R_OK):
        raise argparse.ArgumentTypeError(f'{text} cannot be read')
    return Path(text).absolute()


class Demo:
    """One run: what it started, and how it is stopped.

    :ivar directory: holds everything of the run; goes with it.
    """

    def __init__(
        self, options: argparse.Namespace, narrator: Narrator
    ) -> None:
        self._options = options
        self._tell = narrator
        self._password = os.environ.pop('ADMIN_PASSWORD', '')
        if not self._password:
            self._password = secrets.token_urlsafe(16)
        self._foreign = bool(os.environ.get(CONTACT_POINTS))
        self._keyspace = (
            f'demo_{secrets.token_hex(4)}' if self._foreign else 'keystone'
        )
        self._stack = ExitStack()
        self._keystones: list[Keystone] = []
        self._kept = False

    def run(self) -> None:
        """Set up, tell the story, and stop all unless it is to be kept.

        :raises LabError: if a step is not as expected.
        """
        root = state_directory()
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        # Even if this process is killed, no secrets stay behind.
        self._group = Group(str(self.directory), remove=True)
        try:
            with self._stack:
                keystone = self._steps()
                if self._options.keep:
                    self._keep(keystone)
                    self._stack.pop_all()
        except LabError:
            self._show_logs()
            raise
        finally:
            if not self._kept:
                self._group.kill()
                shutil.rmtree(self.directory, ignore_errors=True)

    def _steps(self) -> Keystone:
        tell = self._tell
        tell.step('Set up')
        cluster = self._start_cassandra()
        keystone = self._main_keystone(cluster)
        short = self._short_lived(keystone)
        for server in keystone, short:
            self._make_schema(server)
        with tell.task('keystone-manage bootstrap, without any SQL database'):
            for server in keystone, short:
                server.bootstrap(self._password)
        self._start(keystone)
        self._start(short)

        with ExitStack() as open_:
            client = Client(keystone.url, keystone.workers)
            open_.callback(client.close)
            tables = Tables(keystone.config_files)
            open_.callback(tables.close)
            ending_tables = Tables(short.config_files)
            open_.callback(ending_tables.close)
            story = Story(keystone, client, tables, self._password, tell)
            admin = story.log_in()
            story.validate()
            story.show_row()
            people = People(client, admin)
            ending = ShortLife(short, ending_tables, self._password, tell)
            ending.fill()
            story.use_up_trust(people)
            story.revoke(people)
            story.disable_user(people)
            story.lock_out(people)
            story.change_password(people)
            ending.wait()
            people.remove(admin)
        short.stop()
        if self._foreign:
            drop_keyspace(short.config_files)
        return keystone

    def _start_cassandra(self) -> Cluster:
        directory = str(self.directory / _CLUSTER)
        if not self._foreign:
            # Outside the task below: they tell what they fetch.
            find_java()
            find_jars()
        with self._tell.task('Cassandra starts'):
            self._cluster = Cluster.start(directory=directory)
        self._stack.callback(self._cluster.destroy)
        return self._cluster

    def _main_keystone(self, cluster: Cluster) -> Keystone:
        settings = merge(
            ALL_DRIVERS,
            points_at(cluster, self._keyspace),
            {
                # What one worker revokes the others refuse at once.
                'token': {'caching': False},
                'security_compliance': LOCK_OUT,
            },
        )
        return self._add(
            Keystone(
                self.directory / 'keystone',
                settings,
                port=self._options.port,
                workers=self._options.workers,
                config_files=self._options.config_file,
                sql=False,
            )
        )

    def _short_lived(self, main: Keystone) -> Keystone:
        """Return the second Keystone, with a keyspace of its own."""
        directory = self.directory / 'short'
        difference = write_configuration(
            self.directory / 'short.conf', f'{self._keyspace}_short'
        )
        return self._add(
            Keystone(
                directory,
                main.settings,
                workers=1,
                config_files=[*self._options.config_file, difference],
                sql=False,
            )
        )

    def _add(self, keystone: Keystone) -> Keystone:
        self._keystones.append(keystone)
        self._stack.callback(keystone.stop)
        return keystone

    def _make_schema(self, keystone: Keystone) -> None:
        with self._tell.task('keystone-cassandra keyspace create'):
            keystone.run('keystone-cassandra', 'keyspace', 'create')
        with self._tell.task('keystone-cassandra schema apply'):
            keystone.run('keystone-cassandra', 'schema', 'apply')
        if self._foreign:
            self._stack.callback(drop_keyspace, keystone.config_files)

    def _start(self, keystone: Keystone) -> None:
        with self._tell.task(
            f'Keystone starts with {keystone.workers} worker'
            + ('s' if keystone.workers > 1 else '')
        ):
            keystone.start()

    def _keep(self, keystone: Keystone) -> None:
        """Let go of what runs, and say how to use it."""
        write_private(
            self.directory / 'openrc',
            ''.join(
                f'export {name}={shlex.quote(value)}\n'
                for name, value in credentials(
                    keystone.url, self._password
                ).items()
            ),
        )
        (self.directory / _KEPT).write_text(
            json.dumps(
                {
                    'port': keystone.port,
                    'foreign': self._foreign,
                    'config_files': [*map(str, keystone.config_files)],
                }
            )
        )
        keystone.release()
        self._cluster.detach()
        self._group.release()
        self._kept = True
        self._explain_use(keystone)

    def _explain_use(self, keystone: Keystone) -> None:
        programs = Path(sys.executable).parent
        self._tell.step('Yours to use')
        self._tell.say(
            f'Keystone answers at {keystone.url}/v3. These lines use it (the'
            ' first holds the password of admin):'
        )
        print(
            f'\n. {self.directory}/openrc',
            f'{programs}/openstack token issue',
            f'tail -f {keystone.log_file}',
            f'KEYSTONE_CASSANDRA_CONTACT_POINTS='
            f'{self._cluster.contact_points_text} tools/cassandra shell',
            'tools/demo --stop',
            sep='\n',
            flush=True,
        )

    def _show_logs(self) -> None:
        for keystone in self._keystones:
            text = keystone.log().splitlines()[-20:]
            if text:
                print(f'\nThe end of {keystone.log_file.name}:')
                print(*text, sep='\n', flush=True)


def drop_keyspace(config_files: Sequence[str | Path]) -> None:
    """Drop the keyspace that these configuration files name."""
    tables = Tables(config_files)
    try:
        tables.drop_keyspace()
    finally:
        tables.close()


def stop_kept(port: int, narrator: Narrator) -> None:
    """Stop the demos that were left running.

    :param port: only the one whose Keystone has this port; 0 means all.
    :raises LabError: if there is none.
    """
    found = 0
    for record in Path(state_directory()).glob(f'{_PREFIX}*/{_KEPT}'):
        kept = json.loads(record.read_text())
        if port and kept['port'] != port:
            continue
        found += 1
        directory = record.parent
        with narrator.task(f'Stopping the demo on port {kept["port"]}'):
            stop_released(directory / 'keystone')
            if kept['foreign']:
                drop_keyspace(kept['config_files'])
            else:
                Cluster.reopen(str(directory / _CLUSTER)).destroy()
            shutil.rmtree(directory)
    if not found:
        which = f' on port {port}' if port else ''
        raise LabError(f'no demo{which} was left running')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = arguments(argv)
    narrator = Narrator()
    # Ended by kill(1) as by Ctrl-C: everything is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.stop:
            stop_kept(options.port, narrator)
        else:
            Demo(options, narrator).run()
            narrator.close()
    except LabError as error:
        print(f'\ntools/demo: not as expected: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ntools/demo: interrupted; all is stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
