# SPDX-License-Identifier: Apache-2.0
"""The federated identities of a user, as two regions may have changed them.

Each has an entry of its own in ``identities``, null once it is removed: what
two regions add at once stays, and what one removes stays away, whatever else
the other one does.  ``federated`` is the list of them that servers of a former
version read and write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oslo_serialization import jsonutils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.rows import Row, text

#: What an identity provider says of a user.
IDENTITY = Row(
    idp_id=text(64, required=True),
    protocol_id=text(64, required=True),
    unique_id=text(255, required=True),
    display_name=text(255),
)
#: What it calls a user.
FEDERATED = IDENTITY.required

Identity = dict[str, Any]


def key(identity: Mapping[str, Any]) -> Identity:
    """Return the key of a federated identity's claim."""
    return {name: identity[name] for name in FEDERATED}


def of(user: Mapping[str, Any]) -> list[Identity]:
    """Return a user's federated identities, the first one first."""
    entries = user['identities'] or {}
    former = [
        each
        for each in user['federated'] or ()
        if _text_of(each) not in entries
    ]
    own = sorted(
        filter(None, entries.values()), key=lambda each: each['since']
    )
    return [
        {name: each[name] for name in IDENTITY.attributes}
        for each in (*former, *own)
    ]


def setting(
    user: Mapping[str, Any], found: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the changes by which a user has these federated identities."""
    wanted = {_text_of(each): dict(each) for each in found}
    entries = user['identities'] or {}
    former = [*map(_text_of, user['federated'] or ())]
    now = clock.to_micros(clock.utcnow())

    def since(label: str, place: int) -> int:
        if entries.get(label):
            return int(entries[label]['since'])
        # What is left in the former list is older than what has an entry.
        return former.index(label) if label in former else now + place

    return {
        'federated': [*wanted.values()],
        'identities': {
            _text_of(each): None
            for each in of(user)
            if _text_of(each) not in wanted
        }
        | {
            label: each | {'since': since(label, place)}
            for place, (label, each) in enumerate(wanted.items())
        },
    }


def _text_of(identity: Mapping[str, Any]) -> str:
    label: str = jsonutils.dumps([identity[name] for name in FEDERATED])
    return label
