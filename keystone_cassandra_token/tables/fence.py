# SPDX-License-Identifier: Apache-2.0
"""Fences: what makes a conditional write impossible that may arrive late.

A write whose reply is lost can be applied at any later time; a serial read
proves "not yet" only.  Each conditional write of an entity holds for one
incarnation, or for a row without one.  So a fence is another incarnation, of a
row that is there or not: an entity is only what is born, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone_cassandra_token.db import clock, elsewhere
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.store import KEEP, Store
from keystone_cassandra_token.tables.entity_statements import EntityStatements


class Fence:
    """The fences of one table of entities.

    All methods raise :class:`~..db.errors.StoreUnavailable` if it cannot be
    found out whether the fence is there.
    """

    def __init__(self, of: EntityStatements) -> None:
        self._of = of

    def put(self, db: Store, entity_id: str) -> None:
        """Make impossible what this datacenter was sent and may apply yet."""
        attempts = self._attempts(entity_id)
        while attempts.another():
            if self._put(db, entity_id, self.find(db, entity_id)):
                return

    def put_everywhere(self, db: Store, entity_id: str) -> None:
        """Make it impossible in each datacenter."""
        if self._of.everywhere:  # they all agree on this one
            return self.put(db, entity_id)
        with elsewhere.each_datacenter(db) as stores:
            for store in stores:
                self.put(store, entity_id)

    def touch(self, db: Store, entity_id: str) -> bool:
        """Let an entity have an incarnation that is later than this call.

        One that another gives it meanwhile will do as well: the serial read
        has seen those before it.  So many of them do not contend.

        :returns: whether it is there.
        """
        found = self.find(db, entity_id)
        if not self._is_entity(found):
            return False
        if self._put(db, entity_id, found):
            return True
        return self.is_there(db, entity_id)

    def is_there(self, db: Store, entity_id: str) -> bool:
        """Return whether an entity is there, wherever it was last changed.

        What others are doing with it is done then.
        """
        return self._is_entity(self.find(db, entity_id))

    def is_made(self, db: Store, new: Mapping[str, Any]) -> bool:
        """Return whether an entity is made; if not, it never will be.

        :param new: as it was to be created.
        """
        attempts = self._attempts(new['id'])
        while attempts.another():
            found = self.find(db, new['id'])
            if found is not None and found['born'] == new['born']:
                return self._is_entity(found)
            # Also if another has come from elsewhere: it may still have the
            # incarnation that was seen.
            if self._put(db, new['id'], found):
                return False

    def is_replaced(
        self, db: Store, old: Mapping[str, Any], new: Mapping[str, Any]
    ) -> bool:
        """Return whether a change is made; if not, it never will be.

        One that keeps the incarnation counts as not made: to make it again,
        of what is there by now, does no harm.

        :param old: what it was made of.
        :param new: what was to become of it.
        """
        attempts = self._attempts(old['id'])
        while attempts.another():
            found = self.find(db, old['id'])
            if found is None or found['incarnation'] != old['incarnation']:
                return found is not None and _is_changed(found, old, new)
            if self._put(db, old['id'], found):
                return False

    def find(self, db: Store, entity_id: str) -> dict[str, Any] | None:
        """Return the row of an id, be it an entity or not."""
        return db.one(self._of.settle, self._of.row, id=entity_id)

    def _is_entity(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and self._of.exists(found)

    def _put(
        self, db: Store, entity_id: str, found: dict[str, Any] | None
    ) -> bool:
        """Fence a row as it was found; return False if it has changed."""
        new = (found or {}) | {'incarnation': clock.incarnation()}
        if found is None or not self._is_entity(found):
            # Without a TTL: an entity of another datacenter may be there soon.
            return self._set(db, entity_id, found, new, born=KEEP)
        if self._of.is_expiring:
            return True  # it is never changed
        self._of.indexes.write(db, [new])
        # A server of an older version did not write the latter.
        born = KEEP if found['born'] else new['incarnation']
        made = self._set(db, entity_id, found, new, born=born)
        self._of.indexes.remove(db, found if made else new)
        return made

    def _set(
        self,
        db: Store,
        entity_id: str,
        found: Mapping[str, Any] | None,
        new: Mapping[str, Any],
        born: object,
    ) -> bool:
        """Give a row another incarnation than the one that was found."""
        seen = found and found['incarnation']

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            there = row and row['incarnation']
            return None if there == seen else there == new['incarnation']

        return bool(
            db.cas_settled(
                self._of.renumber,
                self._of.settle,
                applied,
                id=entity_id,
                seen=seen,
                incarnation=new['incarnation'],
                born=born,
            )
        )

    def _attempts(self, entity_id: object) -> Attempts:
        return Attempts(self._of.table.replace('_', ' '), entity_id)


def _is_changed(
    found: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> bool:
    """Return whether a row has become what it was to become.

    A fence gives it another incarnation; the stamps of its names stay.
    """
    if found['incarnation'] == new['incarnation']:
        return True
    stamps = new.get('stamps')
    return bool(stamps and found['stamps'] == stamps != old['stamps'])
