# SPDX-License-Identifier: Apache-2.0
"""``tools/demo``: a real Keystone on a real Cassandra, step by step."""

import argparse
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

from keystoneauth1.exceptions import ClientException

from lab import CHECKOUT, TOOLS, LabError
from lab.cassandra import CONTACT_POINTS, Cluster
from lab.client import Client, credentials, no_proxy
from lab.expiry import CONFIGURATION, ShortLife
from lab.kept import CASSANDRA, KEYSTONE, PREFIX, Kept
from lab.kept import stop as stop_kept
from lab.narration import Narrator
from lab.people import People
from lab.ports import state_directory
from lab.preflight import arguments
from lab.processes import Group
from lab.regions import story as regions_story
from lab.server import ALL_DRIVERS, Keystone, merge, points_at, write_private
from lab.story import LOCK_OUT, Story
from lab.tables import Tables, drop_keyspace

#: The data is never read after the node's end: a change of the schema need
#: not be on the disk before the next, which halves the time for the tables.
_FORGETFUL = '-Dcassandra.unsafesystem=true'

#: Before the variables of an openrc: those of another cloud would mix in.
_FORGET = """\
for name in $(env | sed -n 's/^\\(OS_[A-Z0-9_]*\\)=.*/\\1/p'); do
    unset "$name"
done
"""


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

    def run(self) -> None:
        """Set up, tell the story, and stop all unless it is to be kept.

        :raises LabError: if a step is not as expected.
        """
        root = state_directory()
        self.directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        with self._stack:
            self._stack.callback(shutil.rmtree, self.directory, True)
            # Even if this process is killed, no secrets stay behind.
            self._group = Group(str(self.directory), remove=True)
            self._stack.callback(self._group.kill)
            self._stack.push(self._show_logs)
            try:
                keystone = self._steps()
            except KeyboardInterrupt:
                print('\nInterrupted; stopping all.', file=sys.stderr)
                raise
            if self._options.keep:
                self._keep(keystone)
                self._stack.pop_all()
            else:
                with self._tell.task('stopping all'):
                    self._stack.close()
        self._end(keystone)

    def _show_logs(self, kind: type[BaseException] | None, *_: object) -> None:
        """Show, once all is stopped, what the servers said of a failure."""
        if kind is None or not issubclass(kind, Exception):
            return
        for keystone in self._keystones:
            if text := keystone.log().splitlines()[-20:]:
                print(f'\nThe end of {keystone.log_file.name}:')
                print(*text, sep='\n', flush=True)

    def _steps(self) -> Keystone:
        tell = self._tell
        tell.step('Set up', 'a Keystone that knows Cassandra alone')
        # Now, so that nobody takes the port meanwhile.
        keystone = Keystone(
            self.directory / KEYSTONE,
            port=self._options.port,
            workers=self._options.workers,
            config_files=self._options.config_file,
            sql=False,
        )
        with tell.task('Cassandra starts'):
            self._cluster = Cluster.start(
                directory=str(self.directory / CASSANDRA),
                java_options=[_FORGETFUL],
            )
        self._stack.callback(self._cluster.destroy)
        # What one worker revokes the others refuse at once.
        more = {
            'token': {'caching': False},
            'security_compliance': LOCK_OUT,
            # A machine may be too busy to answer as soon as a cloud should.
            'cassandra': {'request_timeout': 30, 'request_deadline': 60},
        }
        server = points_at(self._cluster, self._keyspace)
        keystone.configure(merge(ALL_DRIVERS, server, more))
        self._set_up(keystone, tell_migrations=True)

        with ExitStack() as open_:
            client = Client(keystone.url, keystone.workers)
            open_.callback(client.close)
            tables = Tables(keystone.config_files)
            open_.callback(tables.close)
            story = Story(keystone, client, tables, self._password, tell)
            story.draw(self._cluster.contact_points_text)
            story.log_in()
            story.validate()
            story.revoke()
            story.show_row()
            # Now, since nothing takes longer than their end.
            tell.step('Things with a short life', 'tokens and trusts end')
            short = self._short_lived(keystone)
            ending_tables = Tables(short.config_files)
            open_.callback(ending_tables.close)
            ending = ShortLife(short, ending_tables, self._password, tell)
            ending.fill()
            people = People(client, story.admin)
            story.use_up_trust(people)
            story.disable_user(people)
            story.lock_out(people)
            story.change_password(people)
            ending.wait()
            with tell.task('removing alice, bob and the second Keystone'):
                people.remove(story.admin)
                short.stop()
                if self._foreign:
                    drop_keyspace(short.config_files)
        return keystone

    def _short_lived(self, main: Keystone) -> Keystone:
        """Return the second Keystone, with a keyspace of its own."""
        difference = self.directory / 'short.conf'
        difference.write_text(
            CONFIGURATION.format(keyspace=f'{self._keyspace}_short')
        )
        short = Keystone(
            self.directory / 'short',
            main.settings,
            workers=1,
            config_files=[*self._options.config_file, difference],
            sql=False,
        )
        self._tell.say('A second Keystone, whose tokens live for seconds:')
        self._set_up(short)
        return short

    def _set_up(
        self, keystone: Keystone, tell_migrations: bool = False
    ) -> None:
        """Make the tables and the administrator, and start the server."""
        self._keystones.append(keystone)
        self._stack.callback(keystone.stop)
        tell, run = self._tell, keystone.run
        with tell.task('keystone-cassandra keyspace create'):
            run('keystone-cassandra', 'keyspace', 'create')
        if self._foreign:
            self._stack.callback(drop_keyspace, keystone.config_files)
        with tell.task('keystone-cassandra schema apply') as progress:
            told = {'progress': progress} if tell_migrations else {}
            run('keystone-cassandra', 'schema', 'apply', **told)
        with tell.task('keystone-manage bootstrap'):
            keystone.bootstrap(self._password)
        number = keystone.workers
        with tell.task(
            f'Keystone starts with {number} worker{"s" * (number > 1)}'
        ):
            keystone.start()

    def _keep(self, keystone: Keystone) -> None:
        """Let go of what runs."""
        write_private(
            self.directory / 'openrc', openrc(keystone.url, self._password)
        )
        drop = [
            *(sys.executable, '-W', 'ignore', '-m', 'lab.tables'),
            *map(str, keystone.config_files),
        ]
        Kept(
            directory=str(self.directory),
            port=keystone.port,
            checkout=CHECKOUT,
            drop=drop if self._foreign else [],
        ).save()
        keystone.release()
        self._cluster.detach()
        self._group.release()

    def _end(self, keystone: Keystone) -> None:
        """Tell what was shown, what is left, and what to do with it."""
        cassandra = self._cluster.contact_points_text
        if self._options.keep:
            left = [
                (f'Keystone at {keystone.url}', 'until tools/demo --stop'),
                (f'Cassandra at {cassandra}', f'keyspace {self._keyspace}'),
            ]
            first = (
                'the lines below',
                'openstack, and the tables, in any shell',
            )
        else:
            left = [('nothing', 'all is stopped and removed')]
            first = ('tools/demo --keep', 'use openstack against it')
        self._tell.close(
            left,
            [
                first,
                ('tools/test --help', 'the tests, on a real Cassandra too'),
                ('README.rst, "Use it"', 'the drivers in your own Keystone'),
            ],
        )
        if self._options.keep:
            print(
                '\n# Openstack as admin: source this, it holds the password',
                f'. {shlex.quote(f"{self.directory}/openrc")}',
                '# then, for example:',
                'openstack token issue',
                '# The log of Keystone:',
                f'tail -f {shlex.quote(str(keystone.log_file))}',
                '# The tables:',
                shell_line(cassandra),
                '# Stop all and remove it:',
                stop_line(),
                sep='\n',
                flush=True,
            )


def openrc(url: str, password: str) -> str:
    """Return the lines after which ``openstack`` talks to this Keystone.

    For any shell like that of POSIX.
    """
    variables = credentials(url, password) | no_proxy(os.environ)
    return ''.join(
        [
            _FORGET,
            *(f'export {k}={shlex.quote(v)}\n' for k, v in variables.items()),
            # Behind what is there: the shell keeps its own Python.
            f'PATH="$PATH":{shlex.quote(str(Path(sys.executable).parent))}\n',
        ]
    )


def stop_line() -> str:
    """Return the command that stops a kept demo from any shell."""
    return _command(
        {'KEYSTONE_CASSANDRA_STATE_DIR': state_directory()}
        if {'KEYSTONE_CASSANDRA_STATE_DIR', 'TMPDIR'} & os.environ.keys()
        else {},
        'demo',
        '--stop',
    )


def shell_line(contact_points: str) -> str:
    """Return the command that opens cqlsh from any shell."""
    names = 'KEYSTONE_CASSANDRA_VENV', 'KEYSTONE_CASSANDRA_PYTHON'
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    return _command(
        given | {CONTACT_POINTS: contact_points}, 'cassandra', 'shell'
    )


def _command(variables: dict[str, str], tool: str, *arguments: str) -> str:
    words = [shlex.quote(str(TOOLS / tool)), *arguments]
    given = [f'{k}={shlex.quote(v)}' for k, v in variables.items()]
    return ' '.join([*given, *words])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = arguments(argv)
    narrator = Narrator()
    # Ended by kill(1) as by Ctrl-C: everything is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.stop:
            stop_kept(options.all, options.port)
        elif options.regions:
            regions_story.tell(options.regions, narrator)
        else:
            Demo(options, narrator).run()
    except (LabError, ClientException) as error:
        print(f'\ntools/demo: not as expected: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('tools/demo: interrupted; all is stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
