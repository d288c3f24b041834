# SPDX-License-Identifier: Apache-2.0
"""A revocation that another datacenter tells of is written where it is not."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from keystone.models import revoke_model
from oslo_utils import timeutils

from keystone_cassandra_token.db import changes, clock
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.token import revoke
from tests.fault import faults


def told(store: Store, user_id: str, life: int = 60) -> dict[str, Any]:
    """Return what an entry says of a user's revocation."""
    now = clock.to_micros(clock.utcnow())
    return {
        'subject': f'user:{user_id}',
        'scope': '{"kept": 60}',
        'issued_before': now,
        'revoked_at': now,
        'end': now // 10**6 + life,
    }


def is_revoked(user_id: str) -> bool:
    checked = revoke_model.blank_token_data(
        timeutils.utcnow() - datetime.timedelta(minutes=1)
    ) | {'user_id': user_id, 'roles': []}
    return bool(revoke.Revoke().list_events(token=checked))


def writes(store: Store, *keys: dict[str, Any]) -> int:
    with faults.counted(store) as sent:
        changes.FETCH[changes.REVOCATION](store, keys)
    return sum(each[0].verb == 'INSERT' for each in sent)


def test_it_is_written_once(store: Store) -> None:
    user_id = uuid.uuid4().hex
    key = told(store, user_id)
    assert not is_revoked(user_id)
    assert writes(store, key) == 1
    assert is_revoked(user_id)
    assert writes(store, key) == 0


def test_what_has_ended_is_not_written(store: Store) -> None:
    user_id = uuid.uuid4().hex
    assert writes(store, told(store, user_id, life=-1)) == 0
    assert not is_revoked(user_id)
