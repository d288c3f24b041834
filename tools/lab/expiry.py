# SPDX-License-Identifier: Apache-2.0
"""The demo's last step: what is left once everything has expired.

A second Keystone with a keyspace of its own, since the life of revocations
is a property of the keyspace that only grows, gives tokens that live for
seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from lab.client import Client
from lab.narration import Narrator, Unexpected
from lab.people import People, soon
from lab.server import Keystone
from lab.tables import Tables

#: Seconds that a token is valid, and may be fetched after that.
EXPIRATION = 15
WINDOW = 10
#: Seconds that a trust is kept after its end; the least the option takes.
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
"""

#: More than all that is added up above, for a slow machine.
_PATIENCE = 180


def write_configuration(path: Path, keyspace: str) -> Path:
    """Write the options in which the second Keystone differs."""
    path.write_text(_CONFIGURATION.format(keyspace=keyspace))
    return path


class ShortLife:
    """Tokens, a revocation and a trust that soon end.

    :param keystone: a server with the options of
        :func:`write_configuration`, started.
    :param tables: its tables.
    """

    def __init__(
        self,
        keystone: Keystone,
        tables: Tables,
        people: People,
        narrator: Narrator,
    ) -> None:
        self._keystone = keystone
        self._people = people
        self._narrator = narrator
        self._tables = tables
        self._start = time.monotonic()

    def fill(self) -> None:
        """Issue, revoke and delegate."""
        tell, people = self._narrator, self._people
        tell.step('For the end: things with a short life')
        tell.say(
            f'A second Keystone gives tokens of {EXPIRATION} s that may be'
            f' fetched for {WINDOW} s more, in the keyspace'
            f' {self._tables.keyspace}. They end while the next steps run.'
        )
        client = Client(self._keystone.url, self._keystone.workers)
        try:
            token = people.log_in('alice', client)
            people.log_in('bob', client)
            trust = people.trust(token, client, soon(EXPIRATION))
            people.use_trust(trust, client)
            # Counted twice: on a slow machine the first may soon be gone.
            rows = self._tables.count()
            client.request('DELETE', '/auth/tokens', token, token)
        finally:
            client.close()
        for name, number in self._tables.count().items():
            rows[name] = max(rows[name], number)
        tell.expect(
            all(rows.values()),
            'two people log in, one trusts the other, who uses it once, and'
            ' revokes a token: every table has rows: '
            + ', '.join(f'{n} {name}' for name, n in rows.items()),
        )
        self._start = time.monotonic()

    def wait(self) -> None:
        """Wait until nothing is left, and tell how long it took."""
        tell = self._narrator
        tell.step('What is left of the things with a short life')
        tell.say(
            'Rows still there, by seconds since they were made. The trust is'
            f' kept for {RETENTION} s after its end ([cassandra]'
            ' trust_retention), so it goes last.'
        )
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
