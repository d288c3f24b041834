# SPDX-License-Identifier: Apache-2.0
"""The demo's last step: what is left once everything has expired.

A second Keystone with a keyspace of its own, since the life of revocations
is a property of the keyspace that only grows, gives tokens that live for
seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from keystoneauth1 import exceptions

from lab.client import ADMIN_SCOPE, Client
from lab.narration import Narrator, Unexpected
from lab.people import People, soon
from lab.server import Keystone
from lab.tables import Tables

#: Seconds that a token is valid, and may be fetched after that.
EXPIRATION = 15
WINDOW = 10
#: Seconds that a trust and an application credential are kept after their
#: end; the least the options take.
RETENTION = 60

_CONFIGURATION = f"""\
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

#: More than all that is added up above, for a slow machine.
_PATIENCE = 180


def write_configuration(path: Path, keyspace: str) -> Path:
    """Write the options in which the second Keystone differs."""
    path.write_text(_CONFIGURATION.format(keyspace=keyspace))
    return path


class ShortLife:
    """Tokens, a revocation, a trust and more that soon end.

    :param keystone: a server with the options of
        :func:`write_configuration`, started.
    :param tables: its tables.
    :param password: of its admin.
    """

    def __init__(
        self,
        keystone: Keystone,
        tables: Tables,
        password: str,
        narrator: Narrator,
    ) -> None:
        self._keystone = keystone
        self._password = password
        self._narrator = narrator
        self._tables = tables
        self._start = time.monotonic()

    def fill(self) -> None:
        """Issue, revoke and delegate."""
        tell = self._narrator
        tell.step('For the end: things with a short life')
        tell.say(
            f'A second Keystone gives tokens of {EXPIRATION} s that may be'
            f' fetched for {WINDOW} s more, in the keyspace'
            f' {self._tables.keyspace}. They end while the next steps run.'
        )
        client = Client(self._keystone.url, self._keystone.workers)
        try:
            admin = client.log_in('admin', self._password, **ADMIN_SCOPE)
            people = People(client, admin.auth_token, 'short')
            token = people.log_in('alice', client)
            people.log_in('bob', client)
            trust = people.trust(token, client, soon(EXPIRATION))
            people.use_trust(trust, client)
            self._credential = people.application_credential(
                token, client, soon(EXPIRATION)
            )
            client.log_in_by_credential(*self._credential)
            # Counted twice: on a slow machine the first may soon be gone.
            rows = self._tables.count()
            client.request('DELETE', '/auth/tokens', token, token)
        finally:
            client.close()
        for name, number in self._tables.count().items():
            rows[name] = max(rows[name], number)
        tell.expect(
            all(rows.values()),
            'two people log in, one trusts the other, who uses it once, makes'
            ' an application credential that logs in, and revokes a token:'
            ' every table has rows: '
            + ', '.join(f'{n} {name}' for name, n in rows.items()),
        )
        self._start = time.monotonic()

    def wait(self) -> None:
        """Wait until nothing is left, and tell how long it took."""
        tell = self._narrator
        tell.step('What is left of the things with a short life')
        tell.say(
            'Rows still there, by seconds since they were made. The trust and'
            f' the application credential are kept for {RETENTION} s after'
            ' their end ([cassandra] trust_retention and'
            ' application_credential_retention), so they go last.'
        )
        client = Client(self._keystone.url, self._keystone.workers)
        try:
            client.log_in_by_credential(*self._credential)
            refused = False
        except exceptions.http.Unauthorized:
            refused = True
        finally:
            client.close()
        tell.expect(refused, 'the application credential logs nobody in')
        left = self._tables.count()
        while any(left.values()):
            passed = round(time.monotonic() - self._start)
            tell.count(left, passed)
            if passed > _PATIENCE:
                tell.end_count()
                raise Unexpected(f'after {passed} s there still are rows')
            time.sleep(5)
            left = self._tables.count()
        tell.count(left, round(time.monotonic() - self._start))
        tell.end_count()
        tell.expect(
            not any(left.values()),
            f'nothing is left in any of the {len(left)} tables, and no flush'
            ' was run',
        )
