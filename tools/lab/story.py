# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` shows: the life of tokens, trusts and revocations.

Each step drives a real Keystone over HTTP, tells what it sees, and raises
:class:`~lab.narration.Unexpected` if that is not as it should be.  No step
relies on how long another one took.
"""

import dataclasses
import http.client
import json
import secrets
from contextlib import closing
from typing import Any

from keystoneauth1 import exceptions
from keystoneauth1.access import AccessInfoV3

from keystone_cassandra_token.db import clock
from lab.client import ADMIN_SCOPE, Client, credentials, openstack
from lab.narration import Narrator, Unexpected
from lab.people import People, soon
from lab.server import Keystone
from lab.tables import Tables
from lab.waiting import PATIENCE

#: Wrong passwords that lock a user, and for how many seconds: longer than
#: the demo takes anywhere.
LOCK_OUT = {'lockout_failure_attempts': 3, 'lockout_duration': 1800}

_PICTURE = """\
openstack         keystoneauth
        \\           /
         HTTP, tokens
              |
Keystone at {url}
workers {workers}
no SQL database
              |
         CQL, rows with a TTL
              |
Cassandra at {cassandra}
keyspace {keyspace}"""


def shortened(token: str) -> str:
    """Return as much of a token as may be shown."""
    return f'{token[:8]}... ({len(token)} characters)'


def _readable(column: str, value: Any) -> str:
    if isinstance(value, bytes):
        return f'0x{value.hex()}'
    if column.endswith('_at'):
        return f'{value} ({clock.from_micros(value)} UTC)'
    return str(value)


@dataclasses.dataclass
class Story:
    """The steps, in order.

    :ivar keystone: a server that runs, with the options of
        :data:`LOCK_OUT`.
    :ivar tables: its tables.
    :ivar password: of its admin.
    :ivar admin: a token of the admin, once logged in.
    """

    keystone: Keystone
    client: Client
    tables: Tables
    password: str
    tell: Narrator

    def __post_init__(self) -> None:
        self._first, self._second, *_ = self.client.workers

    def draw(self, cassandra: str) -> None:
        """Show who talks to whom.

        :param cassandra: where it answers.
        """
        self.tell.draw(
            _PICTURE.format(
                url=self.keystone.url,
                workers=' and '.join(self.client.workers),
                cassandra=cassandra,
                keyspace=self.tables.keyspace,
            )
        )

    def log_in(self) -> None:
        """Log in as admin by two clients."""
        tell = self.tell
        tell.step('Log in', 'tokens are random bits: no keys to rotate')
        variables = credentials(self.keystone.url, self.password)
        issued = json.loads(
            openstack(variables, 'token', 'issue', '-f', 'json')
        )
        self._other = issued['id']
        tell.expect(
            self._other.startswith('kc1_'),
            f'`openstack token issue` got {shortened(self._other)}, valid'
            f' until {issued["expires"]}',
        )
        access = self._log_in_as_admin()
        self.admin = access.auth_token
        self._audit_id = access.audit_id
        tell.expect(
            self.admin != self._other,
            f'keystoneauth got another, {shortened(self.admin)}: 256 random'
            ' bits, with nothing to read in them and no key to rotate',
        )

    def validate(self) -> None:
        """Validate the token in every worker."""
        tell = self.tell
        tell.step('Validate', 'every worker knows a token from its row')
        seen = self.client.validate_everywhere(self.admin, self.admin)
        for worker, status in seen.items():
            tell.expect(
                status == 200, f'worker {worker} validates it: HTTP {status}'
            )
        wrong = 'kc1_' + secrets.token_urlsafe(32)
        status = self.client.validate(self.admin, wrong)
        tell.expect(status == 404, f'a token nobody issued: HTTP {status}')

    def revoke(self) -> None:
        """Revoke a token in one worker, validate it in the others."""
        tell, client = self.tell, self.client
        tell.step('Revoke', 'what one worker revokes all refuse at once')
        # What a worker might remember of it, it remembers now.
        before = self._statuses(self._other)
        answer = client.request(
            *('DELETE', '/auth/tokens', self.admin),
            subject=self._other,
            worker=self._first,
        )
        seen = client.validate(self.admin, self._other, self._second)
        tell.expect(
            before == {200} and answer.status_code == 204,
            f'worker {self._first} revokes the token that `openstack` got:'
            f' HTTP {answer.status_code}',
        )
        tell.expect(
            seen == 404,
            f'worker {self._second} refuses it at once: HTTP {seen}',
        )
        tell.say(
            'At once, since [token] caching is false here: each validation'
            ' asks Cassandra. With caching on and a [cache] backend that'
            ' remembers, a server may accept a revoked token for up to'
            ' [token] cache_time, unless all servers share that cache.'
        )
        self._keep_alive(self._log_in_as_admin().auth_token)

    def _keep_alive(self, token: str) -> None:
        """Revoke and go on asking on one connection: 204 has no body."""
        # Not by requests, which opens another one if this is closed.
        statuses, ports = [], set()
        connection = http.client.HTTPConnection(
            self.keystone.url.removeprefix('http://'), timeout=PATIENCE
        )
        headers = {'X-Auth-Token': self.admin, 'X-Subject-Token': token}
        with closing(connection):
            for method in 'HEAD', 'DELETE', 'GET', 'HEAD':
                connection.request(method, '/v3/auth/tokens', headers=headers)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
                # None once the server has closed it.
                sock = connection.sock
                ports.add(sock.getsockname()[1] if sock else 0)
        self.tell.expect(
            statuses == [200, 204, 404, 404] and len(ports) == 1,
            'HEAD, DELETE, GET, HEAD over one kept connection:'
            f' {", ".join(map(str, statuses))}',
        )

    def show_row(self) -> None:
        """Show the token's row and its falling TTL."""
        tell = self.tell
        tell.step('Look at a row', 'a hash for a token, and a falling TTL')
        row = self._row()
        tell.values([(name, _readable(name, row[name])) for name in row])
        tell.expect(
            self.admin not in str(row),
            'the token itself is not there: its hash is the key, and whoever'
            ' reads the table cannot use it',
        )
        seen = row['ttl']
        left = tell.until(
            lambda: (now := self._row()['ttl']) < seen and now,
            f'a TTL below {seen} s',
        )
        tell.expect(
            0 < left < seen,
            f'{left} s are left ([token] expiration + allow_expired_window at'
            ' the start); then Cassandra drops the row by itself',
        )

    def _row(self) -> dict[str, Any]:
        row = self.tables.token_row(self._audit_id)
        if row is None:
            raise Unexpected('the token has no row in Cassandra')
        return row

    def use_up_trust(self, people: People) -> None:
        """Create a trust with two uses and try a third."""
        tell, client = self.tell, self.client
        tell.step(
            'Delegate', 'a trust with two uses is used twice, whoever tries'
        )
        trust = people.trust(people.log_in('alice'), client, soon(3600))
        tell.say(f'alice trusts bob, twice, for this project: trust {trust}')
        token = people.use_trust(trust, client, self._first)
        self._expect_everywhere(
            200,
            f'first use, by worker {self._first}: bob gets a token with'
            " alice's role, and every worker validates it",
            token,
        )
        people.use_trust(trust, client, self._second)
        tell.expect(
            self.tables.remaining_uses(trust) == 0,
            f'second use, by worker {self._second}: no use is left',
        )
        self._expect_refused(
            f'third use, by worker {self._first}',
            *(people.use_trust, trust, client, self._first),
        )
        self._expect_everywhere(
            404,
            'the tokens of the used-up trust stop validating, in every worker'
            " (so it is with Keystone's SQL driver)",
            token,
        )

    def disable_user(self, people: People) -> None:
        """Disable a user; tokens that exist die."""
        self.tell.step(
            'Disable a user', 'the tokens of a disabled user stay dead'
        )
        tokens = [people.log_in('bob') for _ in range(2)]
        self._expect_everywhere(200, 'bob has two valid tokens', *tokens)
        self._set_enabled(people.ids['bob'], False)
        self._expect_everywhere(
            404, 'bob is disabled: every worker refuses both', *tokens
        )
        self._expect_refused('bob logs in', people.log_in, 'bob')
        self._set_enabled(people.ids['bob'], True)
        self._expect_everywhere(
            404, 'bob is enabled again: the old tokens stay dead', *tokens
        )

    def lock_out(self, people: People) -> None:
        """Try wrong passwords until the user is locked; unlock the user."""
        tell, client = self.tell, self.client
        tell.step('Guess a password', 'wrong ones are counted for all workers')
        allowed = LOCK_OUT['lockout_failure_attempts']
        workers = [self._first, self._second, self._first][:allowed]
        refused = [
            _status_of(client.log_in, 'bob', 'a guess', worker)
            for worker in workers
        ]
        tell.expect(
            refused == [401] * allowed,
            f'{allowed} wrong passwords for bob, by both workers: HTTP'
            f' {", ".join(map(str, refused))}',
        )
        self._expect_refused(
            f'now the right one is refused too, by worker {self._second}',
            *(people.log_in, 'bob', None, self._second),
        )
        tell.say(
            f'bob is locked for {LOCK_OUT["lockout_duration"]} s'
            ' ([security_compliance] lockout_duration), or until he is'
            ' enabled; the wrong passwords are counted in his row, for all'
            ' servers.'
        )
        self._set_enabled(people.ids['bob'], True)
        status = _status_of(people.log_in, 'bob')
        tell.expect(
            status == 201,
            f'an administrator enables him: the right one works: HTTP'
            f' {status}',
        )

    def change_password(self, people: People) -> None:
        """Change a password; the old tokens die, a new one lives."""
        tell = self.tell
        tell.step('Change a password', 'tokens of before are refused')
        old = people.log_in('alice')
        former = people.passwords['alice']
        people.passwords['alice'] = secrets.token_urlsafe(12)
        change = {
            'original_password': former,
            'password': people.passwords['alice'],
        }
        path = f'/users/{people.ids["alice"]}/password'
        self.client.call('POST', path, old, {'user': change})
        self._expect_everywhere(
            404,
            'alice changes her password: her token is refused by every worker',
            old,
        )
        tell.say(
            'She logs in with the new one. Revocations have whole seconds, so'
            ' a token of the same second is revoked with the rest, and she'
            ' tries again.'
        )
        tell.until(
            lambda: self._statuses(people.log_in('alice')) == {200},
            'a token that every worker accepts',
        )
        self._expect_everywhere(
            404,
            'a token of the new password is accepted by every worker, the old'
            ' one by none',
            old,
        )

    def _log_in_as_admin(self) -> AccessInfoV3:
        return self.client.log_in('admin', self.password, **ADMIN_SCOPE)

    def _set_enabled(self, user: str, enabled: bool) -> None:
        change = {'user': {'enabled': enabled}}
        self.client.call('PATCH', f'/users/{user}', self.admin, change)

    def _statuses(self, *tokens: str) -> set[int]:
        """Return what the workers answer to a validation of tokens."""
        validate = self.client.validate_everywhere
        return {s for t in tokens for s in validate(self.admin, t).values()}

    def _expect_everywhere(self, status: int, seen: str, *tokens: str) -> None:
        """Expect a status of the validation of tokens, in every worker."""
        self.tell.expect(self._statuses(*tokens) == {status}, seen)

    def _expect_refused(self, what: str, call: Any, *arguments: Any) -> None:
        """Expect that a call cannot log in."""
        status = _status_of(call, *arguments)
        self.tell.expect(status == 401, f'{what}: HTTP {status}')


def _status_of(call: Any, *arguments: Any) -> int:
    """Return the HTTP status of a call that logs in; 201 if it does."""
    try:
        call(*arguments)
    except exceptions.HttpError as error:
        return int(error.http_status)
    return 201
