# SPDX-License-Identifier: Apache-2.0
"""``keystone.receipt.provider`` on Cassandra.

A receipt says which methods of a log-in with several a user has passed.  It
is an opaque id, as a token is; ``receipt`` holds its data under a hash of the
id.  One INSERT with one TTL makes it, nothing updates or deletes it: a crash
leaves a receipt or none.

Unlike a Fernet receipt its values are stored, so methods keep their order and
times their microseconds, and there are no keys.
"""

from __future__ import annotations

from typing import Any

from keystone import exception
from keystone.common import utils
from keystone.models.receipt_model import ReceiptModel
from keystone.receipt.providers import base
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock, escalation
from keystone_cassandra_token.db.cql import token_read, token_write
from keystone_cassandra_token.db.rows import Row, micros, text_list
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.token.opaque_ids import OpaqueIds, hashed

PREFIX = 'kr1_'
IDS = OpaqueIds(PREFIX)

RECEIPT = Row(
    'id_hash',
    'user_id',
    methods=text_list,
    issued_at=micros,
    expires_at=micros,
)

GET = token_read(f'SELECT {RECEIPT} FROM receipt WHERE id_hash = :id_hash')
escalation.SOUGHT.add(GET)
INSERT = token_write(
    f'INSERT INTO receipt ({RECEIPT}) VALUES ({RECEIPT.markers})'
).expiring()


class Provider(Driver, base.Provider):
    """Opaque receipts in Cassandra."""

    def validate_receipt(self, receipt_id: Any) -> tuple[Any, ...]:
        receipt = IDS.find(self.db, GET, RECEIPT, receipt_id)
        if receipt is None:
            # Without the id.
            raise exception.ReceiptNotFound(receipt_id='***')
        return (
            receipt['user_id'],
            receipt['methods'],
            utils.isotime(receipt['issued_at'], subsecond=True),
            utils.isotime(receipt['expires_at'], subsecond=True),
        )

    def generate_id_and_issued_at(
        self, receipt: ReceiptModel
    ) -> tuple[str, str]:
        receipt_id = IDS.make(self.conf, self.db.sessions.get().local_dc)
        # In whole seconds, as Fernet has it.
        issued_at = clock.utcnow().replace(microsecond=0)
        expires_at = timeutils.parse_isotime(receipt.expires_at)
        ttl = clock.ttl_until(expires_at)
        if ttl > 0:  # else nobody could use it any more
            values = {
                'id_hash': hashed(self.conf, receipt_id),
                'user_id': receipt.user_id,
                'methods': receipt.methods,
                'issued_at': issued_at,
                'expires_at': expires_at,
            }
            self.db.run(INSERT, ttl=ttl, **RECEIPT.dump(values))
        return receipt_id, utils.isotime(issued_at, subsecond=True)
