# SPDX-License-Identifier: Apache-2.0
"""``keystone.oauth1`` on Cassandra.

``consumer``, ``request_token`` and ``access_token`` are the source of truth;
the ``*_by_*`` tables hold ids.  A token that expires has a TTL, with all that
belongs to it: until its expiry and for as long as a Keystone token that was
made with it can be asked for.

A request token is exchanged once: a lightweight transaction over all
datacenters records its access token, so only one of several exchanges
succeeds.  If the reply is lost, a serial read tells which one did::

    exchange:  request token consumed -> index rows -> access token
               -> request token removed

A crash leaves a consumed request token, with or without its access token,
never two access tokens.  An exchange beside which the token is authorized
again is refused: Keystone has compared the verifier of the former
authorization.  The deletion of a consumer removes its tokens, then
the consumer, then again the tokens, for those made meanwhile.  After a crash
the same call does the rest.  A creator of a token reads the consumer before
and after, and removes the token if the consumer is gone.

Unlike with the SQL driver expired tokens are removed by their TTL, and an
exchange whose reply was lost may have consumed its request token without an
access token.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import uuid
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from keystone import exception
from keystone.common import utils
from keystone.i18n import _
from keystone.oauth1.backends import base
from oslo_log import log
from oslo_serialization import jsonutils

from keystone_cassandra_token.compat import extras, lengths
from keystone_cassandra_token.compat.conflicts import duplicate
from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.db.cql import (
    Statement,
    lwt_global,
    lwt_global_read,
    read,
)
from keystone_cassandra_token.db.outcome import Outcome
from keystone_cassandra_token.db.rows import Row, json_map, micros, text
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes

LOG = log.getLogger(__name__)

Stored = dict[str, Any]

_VERIFIER_LENGTH = 8

CONSUMER = Row(
    id=text(64),
    description=text(64),
    secret=text(64, required=True, secret=True),
    extra=json_map,
)
CONSUMERS = Entity(
    'consumer', CONSUMER, Indexes(), told=[], single_partition=True
)

REQUEST = Row(
    'access_token_id',
    id=text(64),
    request_secret=text(64, required=True, secret=True),
    verifier=text(64),
    authorizing_user_id=text(64),
    requested_project_id=text(64, required=True),
    role_ids=text,
    consumer_id=text(64, required=True),
    expires_at=micros,
)
REQUESTS_BY_CONSUMER = Index('request_token_by_consumer', 'consumer_id')
REQUEST_INDEXES = Indexes(REQUESTS_BY_CONSUMER)

GET = read(f'SELECT {REQUEST} FROM request_token WHERE id = :id')
SETTLE = lwt_global_read(f'SELECT {REQUEST} FROM request_token WHERE id = :id')
# Servers of several datacenters may exchange one; all that changes one agrees
# on it in the same way.
INSERT = lwt_global(
    f'INSERT INTO request_token ({REQUEST}) VALUES ({REQUEST.markers})'
    ' IF NOT EXISTS'
)
INSERT_EXPIRING = INSERT.expiring()
AUTHORIZE = lwt_global(
    'UPDATE request_token SET verifier = :verifier,'
    ' authorizing_user_id = :authorizing_user_id, role_ids = :role_ids'
    ' WHERE id = :id'
    ' IF consumer_id = :consumer_id AND access_token_id = null'
)
AUTHORIZE_EXPIRING = AUTHORIZE.expiring()
# What was authorized since it was read is another authorization.
EXCHANGE = lwt_global(
    'UPDATE request_token SET access_token_id = :access_token_id'
    ' WHERE id = :id IF verifier = :verifier AND access_token_id = null'
)
EXCHANGE_EXPIRING = EXCHANGE.expiring()
DELETE = lwt_global('DELETE FROM request_token WHERE id = :id IF EXISTS')
_EXPIRING = {
    INSERT: INSERT_EXPIRING,
    AUTHORIZE: AUTHORIZE_EXPIRING,
    EXCHANGE: EXCHANGE_EXPIRING,
}

ACCESS = Row(
    id=text(64),
    access_secret=text(64, required=True, secret=True),
    authorizing_user_id=text(64, required=True),
    project_id=text(64, required=True),
    role_ids=text(required=True),
    consumer_id=text(64, required=True),
    expires_at=micros,
)
ACCESS_BY_USER = Index(
    'access_token_by_user', 'authorizing_user_id', sharded=False
)
ACCESS_BY_CONSUMER = Index('access_token_by_consumer', 'consumer_id')
ACCESS_TOKENS = Entity(
    'access_token',
    ACCESS,
    Indexes(ACCESS_BY_USER, ACCESS_BY_CONSUMER),
    told=[],
    expiring=True,
)

REQUEST_DERIVED = DerivedTables(
    'request_token',
    REQUEST.part(['id', 'consumer_id']),
    required=['consumer_id'],
    settle=lwt_global_read,
    tables=REQUEST_INDEXES,
)
ACCESS_DERIVED = DerivedTables.of(ACCESS_TOKENS)


class OAuth1(Driver, base.Oauth1DriverBase):
    """Consumers, request tokens and access tokens in Cassandra."""

    def create_consumer(self, consumer_ref: Mapping[str, Any]) -> Stored:
        stored = CONSUMERS.new(_consumer_to_row(consumer_ref))
        if not CONSUMERS.create(self.db, stored):
            raise duplicate('consumer')
        return _consumer_to_ref(stored)

    def update_consumer(
        self, consumer_id: str, consumer_ref: Mapping[str, Any]
    ) -> Stored:
        def changes(_now: Stored) -> Stored:
            # As with SQL, their lengths count once there is one.
            found = _consumer_to_row(consumer_ref)
            for name in ('id', 'secret'):
                found.pop(name, None)
            return found

        changed = CONSUMERS.change(self.db, consumer_id, changes)
        if changed is None:
            raise exception.NotFound(_('Consumer not found'))
        return _without_secret(_consumer_to_ref(changed))

    def list_consumers(self) -> list[Stored]:
        return [
            _without_secret(_consumer_to_ref(stored))
            for stored in CONSUMERS.all(self.db)
        ]

    def get_consumer(self, consumer_id: str) -> Stored:
        return _without_secret(self.get_consumer_with_secret(consumer_id))

    def get_consumer_with_secret(self, consumer_id: str) -> Stored:
        return _consumer_to_ref(self._consumer(consumer_id))

    def delete_consumer(self, consumer_id: str) -> None:
        # Also if it is gone: a server may have died during the deletion.
        self._delete_tokens(consumer_id)
        if not CONSUMERS.remove(self.db, consumer_id):
            raise exception.NotFound(_('Consumer not found'))
        self._delete_tokens(consumer_id)

    def list_access_tokens(self, user_id: str) -> list[Stored]:
        found = ACCESS_TOKENS.find_by(self.db, ACCESS_BY_USER, user_id)
        return [base.filter_token(_access_to_ref(each)) for each in found]

    def delete_access_token(self, user_id: str, access_token_id: str) -> None:
        stored = self._access_token(access_token_id)
        if stored['authorizing_user_id'] != user_id:
            raise exception.Unauthorized(_('User IDs do not match'))
        if not ACCESS_TOKENS.discard(self.db, stored):
            raise exception.NotFound(_('Access token not found'))

    def create_request_token(
        self,
        consumer_id: str,
        requested_project: str,
        request_token_duration: int,
    ) -> Stored:
        new = dict.fromkeys(REQUEST.columns) | {
            'id': uuid.uuid4().hex,
            'request_secret': uuid.uuid4().hex,
            'requested_project_id': requested_project,
            'consumer_id': consumer_id,
            'expires_at': _expiry(request_token_duration),
        }
        lengths.check(new, REQUEST, 'request_token')
        self._consumer(consumer_id)
        REQUEST_INDEXES.write(self.db, [new], self._ttl(new['expires_at']))
        if not self._agreed(
            INSERT, new, 'request_secret', **REQUEST.dump(new)
        ):
            raise exception.NotFound(_('Request token not found'))
        if not self._has_consumer(new):
            self._delete_request_token(new)
            raise exception.NotFound(_('Consumer not found'))
        return _request_to_ref(new)

    def get_request_token(self, request_token_id: str) -> Stored:
        return _request_to_ref(self._request_token(request_token_id))

    def get_access_token(self, access_token_id: str) -> Stored:
        return _access_to_ref(self._access_token(access_token_id))

    def authorize_request_token(
        self, request_token_id: str, user_id: str, role_ids: Collection[str]
    ) -> Stored:
        stored = self._request_token(request_token_id)
        changes = {
            'authorizing_user_id': user_id,
            'verifier': ''.join(
                secrets.SystemRandom().sample(
                    base.VERIFIER_CHARS, _VERIFIER_LENGTH
                )
            ),
            'role_ids': jsonutils.dumps(role_ids),
        }
        lengths.check(changes, REQUEST, 'request_token')
        if not self._agreed(
            AUTHORIZE,
            stored,
            'verifier',
            consumer_id=stored['consumer_id'],
            **changes,
        ):
            raise exception.NotFound(_('Request token not found'))
        return _request_to_ref(stored | changes)

    def create_access_token(
        self, request_id: str, access_token_duration: int
    ) -> Stored:
        request = self._request_token(request_id)
        if request['authorizing_user_id'] is None:
            raise exception.Unauthorized(
                _('Request Token does not have an authorizing user id.')
            )
        new = ACCESS_TOKENS.new(
            {
                'id': uuid.uuid4().hex,
                'access_secret': uuid.uuid4().hex,
                'authorizing_user_id': request['authorizing_user_id'],
                'project_id': request['requested_project_id'],
                'role_ids': request['role_ids'],
                'consumer_id': request['consumer_id'],
                'expires_at': _expiry(access_token_duration),
            }
        )
        exchanged = self._agreed(
            EXCHANGE,
            request,
            'access_token_id',
            verifier=request['verifier'],
            access_token_id=new['id'],
        )
        if not exchanged:
            # What is there has another verifier, or was exchanged.
            if exchanged.row and exchanged.row['access_token_id'] is None:
                raise exception.Conflict(
                    type='request_token',
                    details=_('It was authorized again meanwhile'),
                )
            raise exception.NotFound(_('Request token not found'))
        if not ACCESS_TOKENS.create(
            self.db, new, self._ttl(new['expires_at'])
        ):
            raise duplicate('access_token')
        with contextlib.suppress(errors.StoreUnavailable):
            # It is already consumed.
            self._delete_request_token(request)
        if not self._has_consumer(new):
            ACCESS_TOKENS.discard(self.db, new)
            raise exception.NotFound(_('Consumer not found'))
        return _access_to_ref(new)

    def _has_consumer(self, token: Stored) -> bool:
        """Return whether a new token's consumer is there still.

        Who deletes a consumer may have looked for its tokens before.
        """
        return CONSUMERS.find(self.db, token['consumer_id']) is not None

    def _consumer(self, consumer_id: str) -> Stored:
        stored = CONSUMERS.find(self.db, consumer_id)
        if stored is None:
            raise exception.NotFound(_('Consumer not found'))
        return stored

    def _request_token(self, request_token_id: str) -> Stored:
        stored = None
        if request_token_id:  # else Cassandra rejects it
            stored = self.db.one(GET, REQUEST, id=request_token_id)
        if not _exists(stored):
            raise exception.NotFound(_('Request token not found'))
        return stored

    def _access_token(self, access_token_id: str) -> Stored:
        stored = ACCESS_TOKENS.find(self.db, access_token_id)
        if stored is None:
            raise exception.NotFound(_('Access token not found'))
        return stored

    def _agreed(
        self, statement: Statement, request: Stored, own: str, **values: Any
    ) -> Outcome:
        """Write a request token conditionally; return what became of it.

        With the life that it has: a cell written without would outlive it.

        :param own: a column whose value is unique to this write.
        :raises OutcomeUnknown: if that cannot be found out.
        """
        binds = {'id': request['id'], **values}
        ttl = self._ttl(request['expires_at'])
        if ttl is not None:
            if ttl <= 0:
                return Outcome(False, {})
            statement = _EXPIRING[statement]
            binds['ttl'] = ttl

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is not None and row[own] == values[own]:
                return True
            if _exists(row) or statement.verb == 'INSERT':
                return None
            return False  # somebody else has used it up, or it was deleted

        return self.db.cas_settled(statement, SETTLE, applied, **binds)

    def _delete_tokens(self, consumer_id: str) -> None:
        ids = REQUESTS_BY_CONSUMER.ids(self.db, consumer_id)
        for request_token_id in ids:
            self._delete_request_token(
                {'id': request_token_id, 'consumer_id': consumer_id}
            )
        for stored in ACCESS_TOKENS.find_by(
            self.db, ACCESS_BY_CONSUMER, consumer_id
        ):
            ACCESS_TOKENS.discard(self.db, stored)

    def _delete_request_token(self, request: Mapping[str, Any]) -> None:
        if not self.db.cas_settled(
            DELETE,
            SETTLE,
            lambda row: None if row else True,
            id=request['id'],
        ):
            LOG.debug('A request token was gone already.')
        REQUEST_INDEXES.remove(self.db, request)

    def _ttl(self, expires_at: datetime.datetime | None) -> int | None:
        """Return the seconds for which a token stays; None is for ever."""
        if expires_at is None:
            return None
        return clock.ttl_until(
            expires_at,
            self.conf.token.expiration + self.conf.token.allow_expired_window,
        )


def _exists(stored: Mapping[str, Any] | None) -> TypeGuard[Stored]:
    # What is written shortly before the end can outlive its row by a moment.
    return (
        stored is not None
        and stored['consumer_id'] is not None
        and stored['access_token_id'] is None
    )


def _expiry(duration: int) -> datetime.datetime | None:
    """Return when a token of so many seconds expires; of none, never."""
    if duration <= 0:
        return None
    end = clock.utcnow() + datetime.timedelta(seconds=duration)
    return end.replace(microsecond=0)  # as Keystone shows it


def _consumer_to_row(given: Mapping[str, Any]) -> Stored:
    """Return the values of the columns that a consumer names.

    :raises: as :func:`extras.to_row`.
    """
    return extras.to_row(given, CONSUMER, 'consumer')


def _consumer_to_ref(stored: Mapping[str, Any]) -> Stored:
    """Return a consumer as the SQL driver returns it, with its secret."""
    return extras.to_ref(stored, CONSUMER)


def _without_secret(consumer: Stored) -> Stored:
    shown: Stored = base.filter_consumer(consumer)
    return shown


def _request_to_ref(stored: Mapping[str, Any]) -> Stored:
    return _token_to_ref(stored, {'access_token_id'})


def _access_to_ref(stored: Mapping[str, Any]) -> Stored:
    return _token_to_ref(stored, {'incarnation', 'born'})


def _token_to_ref(
    stored: Mapping[str, Any], hidden: Collection[str]
) -> Stored:
    """Return a token as the SQL driver returns it."""
    shown = {n: value for n, value in stored.items() if n not in hidden}
    if shown['expires_at'] is not None:
        shown['expires_at'] = utils.isotime(
            shown['expires_at'], subsecond=True
        )
    return shown
