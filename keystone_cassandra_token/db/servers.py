# SPDX-License-Identifier: Apache-2.0
"""What the running servers say of themselves, for the doctor."""

from __future__ import annotations

import dataclasses
import hmac
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from keystone_cassandra_token.db.cql import read, write
from keystone_cassandra_token.db.rows import Row, json_text
from keystone_cassandra_token.db.store import Store

#: Seconds between two times at which a process says it, and for which it
#: counts.  What is left of the latter tells when a node was told: a server of
#: a version with another one would seem to have a wrong clock.
EVERY, TTL = 20.0, 90

SERVER = Row('datacenter', 'host', settings=json_text)

TELL = write(
    'INSERT INTO server (bucket, datacenter, host, settings)'
    ' VALUES (0, :datacenter, :host, :settings) USING TTL :ttl'
)
ALL = read(f'SELECT {SERVER} FROM server WHERE bucket = 0')
#: When each has said it, by its own clock, and what is left of that by the
#: nodes'.
CLOCKS = read(
    'SELECT datacenter, host, WRITETIME(settings) AS told_at,'
    ' TTL(settings) AS seconds_left, toUnixTimestamp(now()) AS node_now'
    ' FROM server WHERE bucket = 0'
)
#: By how much :func:`ahead` can be wrong, in seconds: nodes count whole ones.
ERROR = 1.0


@dataclasses.dataclass(frozen=True)
class Server:
    """One machine with servers that run.

    :ivar settings: those that all have in common, by option.
    """

    datacenter: str
    host: str
    settings: Mapping[str, str]

    def __str__(self) -> str:
        return f'{self.host} ({self.datacenter})'


def fingerprint(secret: str | None) -> str:
    """Return what tells a secret from others, and nothing of it.

    Who knows the secret of one server can find out who else has it.
    """
    if not secret:
        return 'none'
    return hmac.digest(secret.encode(), b'fingerprint', 'sha256')[:8].hex()


def tell(db: Store, settings: Mapping[str, str]) -> None:
    """Say what this server's settings are."""
    server = {
        'datacenter': db.sessions.get().local_dc,
        'host': socket.gethostname(),
        'settings': dict(settings),
    }
    db.run(TELL, ttl=TTL, **SERVER.dump(server))


def ahead(row: Mapping[str, Any]) -> float:
    """Return by how many seconds a server's clock is ahead of the nodes'.

    :param row: of :data:`CLOCKS`.
    """
    # A node keeps when the row ends, in whole seconds.
    ends = row['node_now'] // 1000 + row['seconds_left']
    received: float = ends - TTL + 0.5
    return row['told_at'] / 10**6 - received  # type: ignore[no-any-return]


def differences(servers: list[Server]) -> Iterator[tuple[str, str]]:
    """Yield each setting that differs, and who has which value, in words."""
    names = sorted({name for each in servers for name in each.settings})
    for name in names:
        who: dict[str, list[str]] = {}
        for each in servers:
            # A server of another version may not know it.
            if name in each.settings:
                who.setdefault(each.settings[name], []).append(str(each))
        if len(who) > 1:
            yield (
                name,
                '; '.join(
                    f'{value} on {", ".join(who[value])}'
                    for value in sorted(who)
                ),
            )
