# SPDX-License-Identifier: Apache-2.0
"""The demo's last step: what is left once everything has expired.

A second Keystone with a keyspace of its own, since the life of revocations
is a property of the keyspace that only grows, gives tokens that soon end.
"""

import dataclasses
import time
from contextlib import closing

from keystoneauth1 import exceptions

from lab import LabError
from lab.client import ADMIN_SCOPE, Client
from lab.narration import Narrator
from lab.people import People, soon
from lab.server import Keystone
from lab.tables import Tables
from lab.waiting import PATIENCE, until

#: Seconds that a token is valid, and may be fetched after that.
EXPIRATION = 45
WINDOW = 15
#: Seconds after which a trust and an application credential end, and for
#: which they are kept after that: the least that the options take.
LIFE = 15
RETENTION = 60

#: In which the second Keystone differs; ``keyspace`` is to be filled in.
CONFIGURATION = f"""\
[token]
expiration = {EXPIRATION}
allow_expired_window = {WINDOW}
[revoke]
expiration_buffer = 0
[cassandra]
keyspace = {{keyspace}}
trust_retention = {RETENTION}
application_credential_retention = {RETENTION}
"""


@dataclasses.dataclass
class ShortLife:
    """Tokens, a revocation, a trust and more that soon end.

    :ivar keystone: a server that runs, with :data:`CONFIGURATION`.
    :ivar tables: its tables.
    :ivar password: of its admin.
    """

    keystone: Keystone
    tables: Tables
    password: str
    tell: Narrator
    _rounds: int = 0

    def _client(self) -> closing[Client]:
        return closing(Client(self.keystone.url, self.keystone.workers))

    def fill(self) -> None:
        """Issue, revoke and delegate."""
        self.tell.say(
            f'Its tokens are valid for {EXPIRATION} s and may be fetched for'
            f' {WINDOW} s more, in the keyspace {self.tables.keyspace}. They'
            ' end while the next steps run.'
        )
        rows = self.tell.until(
            self._filled, f'all of it to be made while it lives, {LIFE} s'
        )
        self._start = time.monotonic()
        self.tell.expect(
            all(rows.values()),
            'two people log in, one trusts the other, who uses it once, makes'
            ' an application credential that logs in, and revokes a token:'
            f' every table has rows: {", ".join(rows)}',
        )

    def _filled(self) -> dict[str, int] | None:
        """Make all once; return the rows, None if that took too long.

        On a slow machine the first things may have ended before the last are
        made: then it is done again.
        """
        self._rounds += 1
        begin = time.monotonic()
        try:
            self._make(f'alice{self._rounds}', f'bob{self._rounds}')
        except (LabError, exceptions.ClientException):
            if time.monotonic() - begin < LIFE:
                raise  # it is not for the time
            return None
        rows = self.tables.count()
        return rows if all(rows.values()) else None

    def _make(self, alice: str, bob: str) -> None:
        with self._client() as client:
            admin = client.log_in('admin', self.password, **ADMIN_SCOPE)
            project = f'short{self._rounds}'
            people = People(client, admin.auth_token, project, (alice, bob))
            token = people.log_in(alice)
            people.log_in(bob)
            trust = people.trust(token, client, soon(LIFE), alice, bob)
            people.use_trust(trust, client, trustee=bob)
            self._credential = people.application_credential(
                token, client, soon(LIFE), alice
            )
            client.log_in_by_credential(*self._credential)
            client.request('DELETE', '/auth/tokens', token, token)

    def wait(self) -> None:
        """Wait until nothing is left, and tell how it went."""
        tell = self.tell
        tell.step('What is left', 'nothing, in any table, and without a flush')
        tell.say(
            f'The trust and the application credential end {LIFE} s after'
            f' they were made and are kept for {RETENTION} s more ([cassandra]'
            ' trust_retention and application_credential_retention), so they'
            ' go last.'
        )
        with self._client() as client:
            refused = tell.until(
                lambda: self._refused(client),
                'the end of the application credential',
            )
            tell.expect(refused, 'the application credential logs nobody in')
        with tell.task('waiting for the end of all rows') as progress:
            full = set(self.tables.count())

            def nothing() -> bool:
                nonlocal full
                now = {n for n, rows in self.tables.count().items() if rows}
                if gone := sorted(full - now):
                    passed = time.monotonic() - self._start
                    progress(f'after {passed:.0f} s empty: {", ".join(gone)}')
                full = now
                return not now

            until(nothing, 'the end of all rows', RETENTION + PATIENCE)
        left = self.tables.count()
        tell.expect(
            not any(left.values()),
            f'nothing is left in any of the {len(left)} tables, and no flush'
            ' was run',
        )

    def _refused(self, client: Client) -> bool:
        try:
            client.log_in_by_credential(*self._credential)
        except exceptions.http.Unauthorized:
            return True
        return False
