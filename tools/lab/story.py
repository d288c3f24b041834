# SPDX-License-Identifier: Apache-2.0
"""What ``tools/demo`` shows: the life of tokens, trusts and revocations.

Each step drives a real Keystone over HTTP, tells what it sees, and raises
:class:`~lab.narration.Unexpected` if that is not as it should be.  No step
relies on how long another one took.
"""

from __future__ import annotations

import http.client
import json
import secrets
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from keystoneauth1 import exceptions

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


class Story:
    """The steps, in order."""

    def __init__(
        self,
        keystone: Keystone,
        client: Client,
        tables: Tables,
        password: str,
        narrator: Narrator,
    ) -> None:
        self._keystone = keystone
        self._client = client
        self._tables = tables
        self._password = password
        self._narrator = narrator
        self._admin = ''
        self._audit_id = ''
        self._other = ''

    def draw(self, cassandra: str) -> None:
        """Show who talks to whom.

        :param cassandra: where it answers.
        """
        self._narrator.draw(
            _PICTURE.format(
                url=self._keystone.url,
                workers=' and '.join(self._client.workers),
                cassandra=cassandra,
                keyspace=self._tables.keyspace,
            )
        )

    def log_in(self) -> str:
        """Log in as admin by two clients; return the token."""
        tell = self._narrator
        tell.step('Log in', 'tokens are random bits: no keys to rotate')
        issued = json.loads(
            openstack(
                credentials(self._keystone.url, self._password),
                *('token', 'issue', '-f', 'json'),
            )
        )
        tell.expect(
            issued['id'].startswith('kc1_'),
            f'`openstack token issue` got {shortened(issued["id"])}, valid'
            f' until {issued["expires"]}',
        )
        self._other = issued['id']
        access = self._client.log_in('admin', self._password, **ADMIN_SCOPE)
        self._admin = access.auth_token
        self._audit_id = access.audit_id
        tell.expect(
            self._admin != issued['id'],
            f'keystoneauth got another, {shortened(self._admin)}: 256 random'
            ' bits, with nothing to read in them and no key to rotate',
        )
        return self._admin

    def validate(self) -> None:
        """Validate the token in every worker."""
        tell = self._narrator
        tell.step('Validate', 'every worker knows a token from its row')
        for worker, status in self._validate(self._admin).items():
            tell.expect(
                status == 200,
                f'worker {worker} validates it: HTTP {status}',
            )
        wrong = 'kc1_' + secrets.token_urlsafe(32)
        status = self._client.validate(self._admin, wrong)
        tell.expect(status == 404, f'a token nobody issued: HTTP {status}')

    def revoke(self) -> None:
        """Revoke a token in one worker, validate it in the others."""
        tell, client = self._narrator, self._client
        tell.step('Revoke', 'what one worker revokes all refuse at once')
        first, second = self._two_workers()
        # What a worker might remember of it, it remembers now.
        before = self._validate(self._other)
        answer = client.request(
            'DELETE', '/auth/tokens', self._admin, self._other, worker=first
        )
        seen = client.validate(self._admin, self._other, second)
        tell.expect(
            set(before.values()) == {200} and answer.status_code == 204,
            f'worker {first} revokes the token that `openstack` got: HTTP'
            f' {answer.status_code}',
        )
        tell.expect(
            seen == 404, f'worker {second} refuses it at once: HTTP {seen}'
        )
        tell.say(
            'At once, since [token] caching is false here: each validation'
            ' asks Cassandra. With caching on and a [cache] backend that'
            ' remembers, a server may accept a revoked token for up to'
            ' [token] cache_time, unless all servers share that cache.'
        )
        self._keep_alive(
            client.log_in('admin', self._password, **ADMIN_SCOPE).auth_token
        )

    def _keep_alive(self, token: str) -> None:
        """Revoke and go on asking on one connection: 204 has no body."""
        where = urlsplit(self._keystone.url)
        connection = http.client.HTTPConnection(
            where.hostname or '', where.port, timeout=PATIENCE
        )
        headers = {'X-Auth-Token': self._admin, 'X-Subject-Token': token}
        statuses, ports = [], set()
        with closing(connection):
            for method in 'HEAD', 'DELETE', 'GET', 'HEAD':
                connection.request(method, '/v3/auth/tokens', headers=headers)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
                # None once the server has closed it.
                if connection.sock is not None:
                    ports.add(connection.sock.getsockname()[1])
                else:
                    ports.add(0)
        self._narrator.expect(
            statuses == [200, 204, 404, 404] and len(ports) == 1,
            'HEAD, DELETE, GET, HEAD over one kept connection:'
            f' {", ".join(map(str, statuses))}',
        )

    def show_row(self) -> None:
        """Show the token's row and its falling TTL."""
        tell = self._narrator
        tell.step('Look at a row', 'a hash for a token, and a falling TTL')
        row = self._row()
        tell.values([(name, _readable(name, row[name])) for name in row])
        tell.expect(
            self._admin not in str(row),
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

    def use_up_trust(self, people: People) -> None:
        """Create a trust with two uses and try a third."""
        tell, client = self._narrator, self._client
        tell.step(
            'Delegate', 'a trust with two uses is used twice, whoever tries'
        )
        trust = people.trust(people.log_in('alice'), client, soon(3600))
        tell.say(f'alice trusts bob, twice, for this project: trust {trust}')
        first, second = self._two_workers()
        token = people.use_trust(trust, client, first)
        seen = self._validate(token)
        tell.expect(
            set(seen.values()) == {200},
            f"first use, by worker {first}: bob gets a token with alice's"
            ' role, and every worker validates it',
        )
        people.use_trust(trust, client, second)
        tell.expect(
            self._tables.remaining_uses(trust) == 0,
            f'second use, by worker {second}: no use is left',
        )
        status = self._status_of(people.use_trust, trust, client, first)
        tell.expect(
            status == 401, f'third use, by worker {first}: HTTP {status}'
        )
        seen = self._validate(token)
        tell.expect(
            set(seen.values()) == {404},
            'the tokens of the used-up trust stop validating, in every worker'
            " (so it is with Keystone's SQL driver)",
        )

    def disable_user(self, people: People) -> None:
        """Disable a user; tokens that exist die."""
        tell = self._narrator
        tell.step('Disable a user', 'the tokens of a disabled user stay dead')
        tokens = [people.log_in('bob') for _ in range(2)]
        before = {s for t in tokens for s in self._validate(t).values()}
        tell.expect(before == {200}, 'bob has two valid tokens')
        self._set_enabled(people.ids['bob'], False)
        after = {s for t in tokens for s in self._validate(t).values()}
        tell.expect(
            after == {404}, 'bob is disabled: every worker refuses both'
        )
        status = self._status_of(people.log_in, 'bob')
        tell.expect(status == 401, f'bob logs in: HTTP {status}')
        self._set_enabled(people.ids['bob'], True)
        after = {s for t in tokens for s in self._validate(t).values()}
        tell.expect(
            after == {404}, 'bob is enabled again: the old tokens stay dead'
        )

    def lock_out(self, people: People) -> None:
        """Try wrong passwords until the user is locked; unlock the user."""
        tell, client = self._narrator, self._client
        tell.step('Guess a password', 'wrong ones are counted for all workers')
        first, second = self._two_workers()
        allowed = LOCK_OUT['lockout_failure_attempts']
        refused = [
            self._status_of(client.log_in, 'bob', 'a guess', worker)
            for worker in [first, second, first][:allowed]
        ]
        tell.expect(
            refused == [401] * allowed,
            f'{allowed} wrong passwords for bob, by both workers: HTTP'
            f' {", ".join(map(str, refused))}',
        )
        status = self._status_of(people.log_in, 'bob', None, second)
        tell.expect(
            status == 401,
            f'now the right one is refused too, by worker {second}: HTTP'
            f' {status}',
        )
        tell.say(
            f'bob is locked for {LOCK_OUT["lockout_duration"]} s'
            ' ([security_compliance] lockout_duration), or until he is'
            ' enabled; the wrong passwords are counted in his row, for all'
            ' servers.'
        )
        self._set_enabled(people.ids['bob'], True)
        status = self._status_of(people.log_in, 'bob')
        tell.expect(
            status == 201,
            f'an administrator enables him: the right one works: HTTP'
            f' {status}',
        )

    def change_password(self, people: People) -> None:
        """Change a password; the old tokens die, a new one lives."""
        tell = self._narrator
        tell.step('Change a password', 'tokens of before are refused')
        old = people.log_in('alice')
        former = people.passwords['alice']
        people.passwords['alice'] = secrets.token_urlsafe(12)
        change = {
            'original_password': former,
            'password': people.passwords['alice'],
        }
        self._client.call(
            'POST',
            f'/users/{people.ids["alice"]}/password',
            old,
            {'user': change},
        )
        seen = self._validate(old)
        tell.expect(
            set(seen.values()) == {404},
            'alice changes her password: her token is refused by every worker',
        )
        tell.say(
            'She logs in with the new one. Revocations have whole seconds, so'
            ' a token of the same second is revoked with the rest, and she'
            ' tries again.'
        )
        tell.until(
            lambda: (
                set(self._validate(people.log_in('alice')).values()) == {200}
            ),
            'a token that every worker accepts',
        )
        seen = self._validate(old)
        tell.expect(
            set(seen.values()) == {404},
            'a token of the new password is accepted by every worker, the old'
            ' one by none',
        )

    def _set_enabled(self, user: str, enabled: bool) -> None:
        self._client.call(
            'PATCH',
            f'/users/{user}',
            self._admin,
            {'user': {'enabled': enabled}},
        )

    def _validate(self, token: str) -> dict[str, int]:
        return self._client.validate_everywhere(self._admin, token)

    def _two_workers(self) -> tuple[str, str]:
        first, second, *_ = self._client.workers
        return first, second

    def _row(self) -> dict[str, Any]:
        row = self._tables.token_row(self._audit_id)
        if row is None:
            raise Unexpected('the token has no row in Cassandra')
        return row

    def _status_of(self, call: Any, *arguments: Any) -> int:
        """Return the HTTP status of a call that logs in; 201 if it does."""
        try:
            call(*arguments)
        except exceptions.HttpError as error:
            return int(error.http_status)
        return 201
