# SPDX-License-Identifier: Apache-2.0
"""``keystone.credential`` on Cassandra.

``credential`` is the source of truth; the ``credential_by_*`` tables hold ids.
Both are written as ``tables.entity`` says: conditionally, since
an id can be used again (that of an EC2 credential hashes its access key),
and so that a crash leaves at most index rows that readers skip.

Blobs are encrypted by Keystone before they come here, and stay so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from keystone import exception
from keystone.common.driver_hints import Hints
from keystone.credential.backends import base

from keystone_cassandra_token.compat import extras, listing
from keystone_cassandra_token.compat.conflicts import duplicate
from keystone_cassandra_token.db import parts
from keystone_cassandra_token.db.cql import scan
from keystone_cassandra_token.db.rows import Row, json_map, text
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Index, Indexes

CREDENTIAL = Row(
    id=text(64),
    user_id=text(64, required=True),
    project_id=text(64),
    encrypted_blob=text(required=True, secret=True),
    type=text(255, required=True),
    key_hash=text(64, required=True, secret=True),
    extra=json_map,
)
# A user's are few, and read by log-ins with a second factor.
BY_USER = Index('credential_by_user', 'user_id', sharded=False, versioned=True)
BY_PROJECT = Index('credential_by_project', 'project_id', versioned=True)
BY_TYPE = Index('credential_by_type', 'type', versioned=True)
CREDENTIALS = Entity(
    'credential',
    CREDENTIAL,
    Indexes(BY_USER, BY_PROJECT, BY_TYPE),
    told=['id', 'user_id', 'type'],
    lists_are_remembered=True,
    sought_elsewhere=True,
    ids_are_given=True,  # that of an EC2 credential is a hash of its key
)
CREDENTIAL_DERIVED = DerivedTables.of(CREDENTIALS)
# Keystone lists all credentials for an administrator, and to rotate keys.
LIST = scan(f'SELECT {CREDENTIALS.row} FROM credential')


class Credential(Driver, base.CredentialDriverBase):
    """Credentials in Cassandra."""

    def create_credential(
        self, credential_id: str, credential: Mapping[str, Any]
    ) -> dict[str, Any]:
        stored = CREDENTIALS.new(_to_row(credential))
        if not CREDENTIALS.create(self.db, stored):
            raise duplicate('credential', 'ID', credential['id'])
        return _to_ref(stored)

    def list_credentials(self, hints: Hints) -> list[dict[str, Any]]:
        found = listing.filter_by_hints(
            map(_to_ref, self._candidates(hints)),
            hints,
            CREDENTIAL.attributes,
            'sensitive',  # none of them is a name
        )
        return listing.limit(found, hints)

    def list_credentials_for_user(
        self, user_id: str, type: str | None = None
    ) -> list[dict[str, Any]]:
        return [
            _to_ref(stored)
            for stored in self._indexed(BY_USER, user_id)
            if not type or stored['type'] == type
        ]

    def get_credential(self, credential_id: str) -> dict[str, Any]:
        stored = CREDENTIALS.find_anywhere(self.db, credential_id)
        if stored is None:
            raise _not_found(credential_id)
        return _to_ref(stored)

    def update_credential(
        self, credential_id: str, credential: Mapping[str, Any]
    ) -> dict[str, Any]:
        changes = _to_row(credential)
        changes.pop('id', None)
        stored = CREDENTIALS.change(self.db, credential_id, changes)
        if stored is None:
            raise _not_found(credential_id)
        return _to_ref(stored)

    def delete_credential(self, credential_id: str) -> None:
        if not CREDENTIALS.remove(self.db, credential_id):
            raise _not_found(credential_id)

    def delete_credentials_for_project(self, project_id: str) -> None:
        self._remove_all(BY_PROJECT, project_id)

    def delete_credentials_for_user(self, user_id: str) -> None:
        self._remove_all(BY_USER, user_id)

    def _remove_all(self, index: Index, value: str) -> None:
        # One that another request moves away meanwhile is left.
        parts.each(
            self.db,
            lambda db, each: CREDENTIALS.remove(
                db, each, **{index.column: value}
            ),
            index.ids(self.db, value),
        )

    def _indexed(self, index: Index, value: str) -> list[dict[str, Any]]:
        """Return the credentials that have this value by now."""
        found = CREDENTIALS.find_all(self.db, index.ids(self.db, value))
        return [stored for stored in found if stored[index.column] == value]

    def _candidates(self, hints: Hints | None) -> Iterable[dict[str, Any]]:
        """Return the credentials among which a list looks."""
        for index in (BY_USER, BY_PROJECT, BY_TYPE):
            wanted = hints and hints.get_exact_filter_by_name(index.column)
            if wanted and isinstance(wanted['value'], str):
                return self._indexed(index, wanted['value'])
        found = CREDENTIALS.scanned(self.db, LIST)
        if hints is None or hints.limit is None or hints.filters:
            return found
        # One more than the limit tells that the list was cut.
        return itertools.islice(found, hints.limit['limit'] + 1)


def _not_found(credential_id: str) -> exception.CredentialNotFound:
    return exception.CredentialNotFound(credential_id=credential_id)


def _to_row(credential: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the columns that a credential names.

    :raises: as :func:`extras.to_row`.
    """
    stored = extras.to_row(credential, CREDENTIAL, 'credential')
    blob = stored.get('encrypted_blob')
    if isinstance(blob, bytes):
        stored['encrypted_blob'] = blob.decode()
    return stored


def _to_ref(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a credential as the SQL driver returns it."""
    return extras.to_ref(stored, CREDENTIAL)
