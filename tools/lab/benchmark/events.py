# SPDX-License-Identifier: Apache-2.0
"""Revocation events and tokens to measure with; no I/O.

The events have the shapes that Keystone emits, in a mix as of a cloud where
most revocations are log-outs: each log-out makes an event for the token's
audit id and one for its chain.
"""

from __future__ import annotations

import datetime
import itertools
import uuid
from collections.abc import Iterator
from typing import Any

from keystone.common import utils
from keystone.models import revoke_model, token_model
from keystone.token.provider import random_urlsafe_str

#: Events lie in the hour before the reference time, evenly: what is older
#: can stop no token that lives an hour.
SPREAD = 3600
#: Of 100 events one is for the user, the project or both of the tokens that
#: are checked; at least three of all are.
RELATED_SHARE = 100
RELATED_LEAST = 3
#: They are older than these tokens, which therefore are live.
RELATED_AGE = (3400, 3600)

USER = uuid.UUID(int=1).hex
PROJECT = uuid.UUID(int=2).hex
TRUST = uuid.UUID(int=3).hex
TRUSTOR = uuid.UUID(int=4).hex
DOMAIN = 'default'

#: What the mix is, for the page and the table.
UNRELATED = (
    'Unrelated events: 90 % in pairs for a token and its chain, as each'
    ' log-out makes them, 5 % for a user, 5 % for a trust, evenly over'
)
MIX = (
    f'{UNRELATED} the last hour. One in 100, at least 3, is for the user, the'
    ' project or both of the tokens checked, from before they were issued.'
)

_SHAPES = (*(('audit_id', 'audit_chain_id') * 9), 'user_id', 'trust_id')
_RELATED = (
    {'user_id': USER},
    {'project_id': PROJECT},
    {'user_id': USER, 'project_id': PROJECT},
)


def now() -> datetime.datetime:
    """Return the time as Keystone has it in events: naive UTC, seconds."""
    moment = datetime.datetime.now(datetime.UTC)
    return moment.replace(tzinfo=None, microsecond=0)


def events(
    size: int, reference: datetime.datetime, first: int = 0, step: int = 1
) -> Iterator[revoke_model.RevokeEvent]:
    """Yield every ``step``-th of ``size`` events, from the ``first`` on.

    :param reference: naive UTC; the youngest event's time.
    """
    related = _related_count(size)
    youngest, oldest = RELATED_AGE
    for number in range(first, size, step):
        if number < related:
            age = youngest + (oldest - youngest) * number // related
            values = _RELATED[number % len(_RELATED)]
        else:
            age = SPREAD * number // size
            shape = _SHAPES[number % len(_SHAPES)]
            values = {shape: _id_of(shape, number)}
        moment = reference - datetime.timedelta(seconds=age)
        yield revoke_model.RevokeEvent(
            issued_before=moment, revoked_at=moment, **values
        )


def _related_count(size: int) -> int:
    return max(RELATED_LEAST, size // RELATED_SHARE)


def audit_event() -> revoke_model.RevokeEvent:
    """Return a new event as for one token that is revoked now."""
    return revoke_model.RevokeEvent(audit_id=random_urlsafe_str())


def revoked_audit_id(size: int) -> str:
    """Return an audit id that an event of this many is for."""
    numbers = itertools.count(_related_count(size))
    return next(
        _id_of('audit_id', number)
        for number in numbers
        if _SHAPES[number % len(_SHAPES)] == 'audit_id'
    )


def _id_of(shape: str, number: int) -> str:
    if shape.startswith('audit'):
        return f'event{number:017d}'  # 22 characters, as Keystone's
    return uuid.UUID(int=(1 << 64) + number).hex


def token_values(
    age: int, reference: datetime.datetime, trust: bool = False
) -> dict[str, Any]:
    """Return a live project token as drivers are asked about it.

    :param age: seconds at the reference time.
    :param trust: whether it is of a trust and of an OAuth1 consumer, and
        so has subjects of every kind: nine.
    """
    issued_at = reference - datetime.timedelta(seconds=age)
    values: dict[str, Any] = revoke_model.blank_token_data(issued_at)
    values |= {
        'user_id': USER,
        'project_id': PROJECT,
        'identity_domain_id': DOMAIN,
        'expires_at': issued_at + datetime.timedelta(seconds=3600),
        'audit_id': random_urlsafe_str(),
        'audit_chain_id': random_urlsafe_str(),
        'roles': [uuid.UUID(int=5).hex],
    }
    if trust:
        values |= {
            'trust_id': TRUST,
            'trustor_id': TRUSTOR,
            'trustee_id': uuid.UUID(int=6).hex,
            'consumer_id': uuid.UUID(int=7).hex,
        }
    return values


def new_token(lifetime: float) -> token_model.TokenModel:
    """Return an unissued token of a project, as a log-in makes it.

    :param lifetime: seconds.
    """
    token = token_model.TokenModel()
    token.user_id = uuid.uuid4().hex
    token.project_id = uuid.uuid4().hex
    token.methods = ['password']
    token.audit_id = random_urlsafe_str()
    token.expires_at = utils.isotime(
        datetime.datetime.now(datetime.UTC)
        + datetime.timedelta(seconds=lifetime),
        subsecond=True,
    )
    return token
