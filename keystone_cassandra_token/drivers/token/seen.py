# SPDX-License-Identifier: Apache-2.0
"""Which revocations a token has seen, so that no clock decides.

A revocation of all tokens of a user, project or consumer names a time, by the
clock of the server that revokes; when a token was issued is by the clock of
another one.  So a token notes the revocations that were known when it was
issued: these never stop it.  Others do if they are from at most
:data:`SLACK` before it was issued, so that clocks may differ by as much.

What a log-in has seen counts only if its credentials were read later: else
one with the former password could be taken for one that knows the change.
The revocations of a user are therefore asked for before its password is
compared (:func:`of_user`), and noted are also those that the check of a token
has found before.  All others, which are read when the token is issued, must
be from a former second, as with Keystone's own providers.

A token that another token was exchanged for has seen what that one has.  What
is read when it is issued does not count for its own user: Keystone may know
from its cache that the former token is valid, and may not know more.

All this needs ``[token] provider = cassandra``.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keystone.models.token_model import TokenModel
from oslo_config import cfg

from keystone_cassandra_token.conf.options import DRIVER
from keystone_cassandra_token.db import clock, escalation, remembered
from keystone_cassandra_token.db.cql import token_read, token_write
from keystone_cassandra_token.db.request import Future
from keystone_cassandra_token.db.rows import Row, json_text, text_list
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import log_in_begins
from keystone_cassandra_token.drivers.token import events
from keystone_cassandra_token.drivers.token.events import CHECK, REVOCATION

#: By how much the clocks of servers may differ, and for how long a revocation
#: may be under way before it counts as late.
SLACK = datetime.timedelta(seconds=60)
_NONE = datetime.timedelta()

#: Revocations that one token notes, the latest ones.
MOST = 1000

SEEN = Row('audit_id', seen=text_list)

GET = token_read(
    f'SELECT {SEEN} FROM token_seen WHERE audit_id IN :audit_ids'
).unpaged()
escalation.SOUGHT.add(GET)
INSERT = token_write(
    f'INSERT INTO token_seen ({SEEN}) VALUES ({SEEN.markers})'
).expiring()

Revocation = dict[str, Any]


def is_used(conf: cfg.ConfigOpts) -> bool:
    """Return whether tokens note what they have seen."""
    return bool(conf.token.provider == DRIVER)


def slack(conf: cfg.ConfigOpts) -> datetime.timedelta:
    """Return by how much the clocks of servers may differ."""
    return SLACK if is_used(conf) else _NONE


def digest(row: Revocation) -> str:
    """Return what tells a revocation from others, in whatever row it is."""
    kept = events.kept(row)
    first = kept.first or clock.to_micros(row['issued_before'])
    text = json_text.encode(
        [row['subject'], events.named(row), kept.by, first, row['made_at']]
    )
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def were_found(subjects: Iterable[str], rows: Iterable[Revocation]) -> None:
    """Note for the request under way what a check has found."""
    known = _known()
    if known is None:
        return
    found: dict[str, list[Revocation]] = {
        each: [] for each in subjects if not events.is_timeless(each)
    }
    for row in rows:
        if row['subject'] in found:
            found[row['subject']].append(row)
    for subject, several in found.items():
        known.setdefault(subject, several)


def of_user(db: Store, user_id: str) -> Future[bool]:
    """Ask for the revocations of a user, for a log-in that begins.

    :returns: the future of whether there are any.  Then what its credentials
        are compared with must be read after that.
    """
    known = _known()
    if known is None or not is_used(db.conf):
        return Future(lambda: False)
    subject = f'user:{user_id}'
    if subject in known:
        return Future(lambda: bool(known[subject]))

    def were_there(rows: list[dict[str, Any]]) -> bool:
        return bool(known.setdefault(subject, rows))

    asked = db.rows_async(CHECK, REVOCATION, subjects=[subject])
    return asked.then(were_there)


log_in_begins.append(of_user)


def by(
    db: Store, token: TokenModel, issued_at: datetime.datetime
) -> Future[list[str]]:
    """Ask for the revocations that a new token has seen.

    :param issued_at: whole seconds.
    :returns: the future of what it has to note.
    """
    if not is_used(db.conf):
        return Future(list)
    known = _known() or {}
    subjects = _subjects(token)
    own = f'user:{token.user_id}'
    since, trustor = clock.EPOCH, ''
    if _is_exchanged(token):
        # It has seen what the first one has, and what is new: of what is
        # older the first one may know nothing yet.
        since = issued_at - SLACK
        if token.trust_id:
            own = f'user:{token.trust["trustee_user_id"]}'
            trustor = f'user:{token.trust["trustor_user_id"]}'
        if token.parent_audit_id:
            subjects = [each for each in subjects if each != own]
    before = [row for each in subjects for row in known.get(each, ())]
    unknown = [each for each in subjects if each not in known]
    if _is_exchanged(token):
        # Keystone's cache may have answered for the former token.
        unknown = [each for each in unknown if each != own]
    asked = db.rows_async(CHECK, REVOCATION, subjects=unknown)

    def noted(rows: Sequence[Revocation]) -> list[str]:
        found = [row for row in rows if row['issued_before'] < issued_at]
        found = [
            row
            for row in before + found
            # Nobody was let in by the trustor before.
            if row['issued_before'] >= since or row['subject'] == trustor
        ]
        found.sort(key=lambda row: row['issued_before'], reverse=True)
        return [digest(row) for row in found[:MOST]]

    return asked.then(noted)


def without(
    db: Store, token: Mapping[str, Any], rows: Iterable[Revocation]
) -> list[Revocation]:
    """Return the revocations that a token has not seen.

    :param token: as Keystone gives it to the driver.
    """
    if not is_used(db.conf):
        return list(rows)
    known = (token['audit_id'], token['audit_chain_id'])
    audit_ids = [str(each) for each in known if each]

    def look(there: Store) -> list[dict[str, Any]]:
        return there.rows(GET, SEEN, audit_ids=audit_ids)

    found = look(db)
    if (
        len(found) < len(audit_ids)
        and db.escalation
        and escalation.is_fresh(token['issued_at'])
    ):
        # The token may have been issued elsewhere, and a note be on its way.
        sought = (GET.table, *audit_ids)
        elsewhere = db.escalation.ask(sought, lambda x: look(x) or None)
        found += elsewhere or []
    noted = {each for row in found for each in row['seen']}
    return [row for row in rows if digest(row) not in noted]


def _known() -> dict[str, list[Revocation]] | None:
    """Return what the request under way has found so far, by subject."""
    reads = remembered.current()
    if reads is None:
        return None
    found: dict[str, list[Revocation]] = reads.notes.setdefault(__name__, {})
    return found


def _is_exchanged(token: TokenModel) -> bool:
    # Those of federated users have no chain.
    return bool(token.parent_audit_id) or 'token' in (token.methods or ())


def _subjects(token: TokenModel) -> list[str]:
    """Return where revocations can be that stop tokens by their time."""
    users = [token.user_id]
    if token.trust_id:
        trust = token.trust
        users += [trust['trustor_user_id'], trust['trustee_user_id']]
    found = [f'user:{each}' for each in users if each]
    if token.project_id:
        found.append(f'project:{token.project_id}')
    if token.access_token_id:
        found.append(f'consumer:{token.access_token["consumer_id"]}')
    return [*dict.fromkeys(found), events.OTHER]
