# SPDX-License-Identifier: Apache-2.0
"""Entities: rows that are written by conditional statements only.

A plain write after a deletion would make a ghost row.  A plain write from a
server whose clock is ahead would hide the changes of the next seconds.  So an
entity is created, changed and deleted by compare-and-set on its
``incarnation``, which changes when an id is used again and each time that the
entity moves in an index.

::

    create:  index rows -> entity
    change:  new index rows -> entity -> index rows that it left
    delete:  entity -> index rows

A crash leaves at most index rows that do not match their entity; readers skip
them.  A compare-and-set whose reply is lost is settled by a serial read.  If
that finds nothing of it, it may still arrive, at any time: so a fence makes it
impossible before anything is undone.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from typing import Any

from keystone_cassandra_token.db import clock, errors, parts
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.changes import telling
from keystone_cassandra_token.db.outcome import Applied, created
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.sender import Step
from keystone_cassandra_token.db.store import KEEP, Store
from keystone_cassandra_token.tables import removals
from keystone_cassandra_token.tables.entity_reads import EntityReads
from keystone_cassandra_token.tables.fence import Fence
from keystone_cassandra_token.tables.index import Indexes

#: Seconds for which a deleted entity's row tells that it was deleted: keeps a
#: late creation from being made, and others from finding it elsewhere.
BURIED_FOR = 24 * 3600

Changes = Mapping[str, Any]
#: What makes sure that an entity may still be made.
Renew = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Entity(EntityReads):
    """One table of entities: reads, creations, changes and deletions."""

    def __init__(
        self, table: str, row: Row, indexes: Indexes, **kind: Any
    ) -> None:
        super().__init__(table, row, indexes, **kind)
        self.fence = Fence(self)

    def new(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return an entity that is yet to be created.

        :param values: by column; one that is missing is None.
        """
        incarnation = clock.incarnation()
        return {
            **dict.fromkeys(self.row.columns),
            **values,
            'incarnation': incarnation,
            'born': incarnation,
        }

    def create(
        self,
        db: Store,
        new: dict[str, Any],
        ttl: int | None = None,
        renew: Renew = lambda new: {},
        meanwhile: Callable[[], object] = lambda: None,
    ) -> bool:
        """Create an entity; return whether its id was free.

        :param new: from :meth:`new`.
        :param ttl: seconds after which it expires; None is never.
        :param renew: called before a row that is no entity is replaced: raises
            if by now this entity must not be made, and returns columns that
            are to be others.
        :param meanwhile: called while index rows are written, before the
            entity is: may complete what is new, and raises if it must not be.
        :raises OutcomeUnknown: if it may be made yet; it is safe to retry.
        :raises StoreUnavailable: if it is not made, and will not be.
        """
        news = self.news(new) if self.tells_creations else None
        return telling(
            db,
            self.table,
            news,
            lambda: self.indexes.list_while_created(
                db,
                new,
                lambda: self._create(db, new, ttl, renew),
                ttl,
                meanwhile,
            ),
        )

    def _create(
        self,
        db: Store,
        new: dict[str, Any],
        ttl: int | None,
        renew: Renew,
    ) -> bool:
        insert, life = self.insert, {}
        if ttl is not None:
            insert, life = self.insert_expiring, {'ttl': ttl}
        seen, lost = None, False
        attempts = self.attempts(new['id'])
        while attempts.another():
            try:
                if db.cas_settled(
                    insert,
                    self.settle,
                    self._applied(created(new['incarnation'])),
                    **self.stored(new, seen),
                    **life,
                ):
                    return True
            except errors.OutcomeUnknown as unknown:
                if self._is_made(db, new, unknown):
                    return True
                if lost:
                    raise errors.StoreUnavailable(unknown.reason) from unknown
                lost = True
            found = self.fence.find(db, new['id'])
            if found is not None and self.exists(found):
                return False
            # A fence, which may be against this very creation.
            seen = found and found['incarnation']
            new.update(renew(new))
            # What it was to be made by before may come at any time, and makes
            # it once nothing is in its way: its deletion must leave something.
            new['born'] = clock.of_second_try()

    def _is_made(
        self,
        db: Store,
        new: Mapping[str, Any],
        unknown: errors.OutcomeUnknown,
    ) -> bool:
        try:
            return self.fence.is_made(db, new)
        except errors.StoreUnavailable:
            raise unknown from None

    def create_all(
        self,
        db: Store,
        new: Sequence[dict[str, Any]],
        renew: Renew = lambda new: {},
    ) -> bool:
        """Create several entities; return whether all their ids were free.

        Those that are kept together are made by one request, all or none.
        Of others some may have been made: their creator discards them.

        :param new: each from :meth:`new`; no two have one id.
        :raises: as :meth:`create`.
        """
        if self.single_partition and len(new) > 1:
            made = telling(
                db,
                self.table,
                self.news(new[0]),
                lambda: self._create_together(db, new),
            )
            if made is not None:
                return made
        return all(
            parts.each(
                db,
                lambda store, each: self.create(store, each, None, renew),
                new,
            )
        )

    def _create_together(
        self, db: Store, new: Sequence[dict[str, Any]]
    ) -> bool | None:
        """Create entities of one partition, all or none.

        None if rows that are no entities are in the way.
        """
        self.indexes.write(db, new)
        stored = [self.stored(each, None) for each in new]
        try:
            outcome = db.cas_batch_settled(
                *((self.insert, each) for each in stored),
                settle=self.settle,
                applied=self._applied(
                    created(*(each['incarnation'] for each in new))
                ),
                rows=stored,
            )
        except errors.OutcomeUnknown as unknown:
            # All or none: what keeps one of them from being made will do.
            if self._is_made(db, new[0], unknown):
                return True
            raise errors.StoreUnavailable(unknown.reason) from unknown
        if outcome:
            return True
        ids = {each['id'] for each in new}
        there = ids & {each['id'] for each in self.all_settled(db)}
        return False if there else None

    def change(
        self,
        db: Store,
        entity_id: str,
        changes: Changes | Callable[[dict[str, Any]], Changes],
    ) -> dict[str, Any] | None:
        """Change an entity; return what it has become, None if it is gone.

        :param changes: values by column, of a map the entries to set; or a
            function that returns them for what the entity is now.
        :raises OutcomeUnknown: if it cannot be found out whether it was
            changed; it is safe to retry.
        :raises Contended: if too many others change it at once.
        """
        attempts = self.attempts(entity_id)
        while attempts.another():
            old = self.find(db, entity_id)
            if old is None:
                return None
            wanted = changes(old) if callable(changes) else changes
            new = self.changed(old, wanted)
            if self.replace(db, old, new, wanted):
                return new

    def changed(
        self, old: Mapping[str, Any], changes: Changes
    ) -> dict[str, Any]:
        """Return what an entity becomes by changes, as for :meth:`change`."""
        new = {**old} | {
            name: (old[name] or {}) | value
            if name in self.map_columns
            else value
            for name, value in changes.items()
        }
        if self._moved(old, new):
            new['incarnation'] = clock.incarnation()
            # Of a server of an older version it has none.
            new['born'] = old['born'] or new['incarnation']
        return new

    def replace(
        self,
        db: Store,
        old: dict[str, Any],
        new: dict[str, Any],
        changes: Changes,
    ) -> bool:
        """Change an entity; return False if another change was first.

        :param old: what it is, as it was read.
        :param new: what it becomes, from :meth:`changed`.
        :param changes: the values by column that make the difference.
        :raises OutcomeUnknown: if it may be changed yet; it is safe to retry.
        """
        moved = old['incarnation'] != new['incarnation']
        if moved:
            self.indexes.write(db, [new])
        shown = changes.keys() - self.private
        is_news = any(new[name] != old[name] for name in shown)
        made = telling(
            db,
            self.table,
            self.news(new) if is_news else None,
            lambda: self._replace(db, old, new, self.differing(old, changes)),
        )
        if moved:
            self.indexes.remove(db, old if made else new)
        return made

    def remove(self, db: Store, entity_id: str, **having: object) -> bool:
        """Delete an entity; return whether it was there.

        :param having: values that it must have at that moment, by column.
        :raises OutcomeUnknown: if that cannot be found out; it is safe to
            retry.
        :raises Contended: if too many others change it at once.
        """
        attempts = self.attempts(entity_id)
        while attempts.another():
            old = self.find(db, entity_id)
            if old is None or any(
                old[name] != value for name, value in having.items()
            ):
                return False
            if self.discard(db, old):
                return True

    def discard(self, db: Store, entity: Mapping[str, Any]) -> bool:
        """Delete this incarnation of an entity alone.

        Return whether it was there.

        :raises OutcomeUnknown: as :meth:`remove`.
        """
        seen = entity['incarnation']

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return True
            # With another incarnation it was changed, or has come back.
            return None if row['incarnation'] == seen else False

        if self.is_noted:
            removals.note(db, self.table, [entity['id']])
        delete, binds = self.deletion(entity)
        gone = telling(
            db,
            self.table,
            self.news(entity),
            lambda: db.cas_settled(
                delete, self.settle, self._applied(applied), **binds
            ),
        )
        self.indexes.remove(db, entity)
        return bool(gone)

    def deletion(self, entity: Mapping[str, Any]) -> Step:
        """Return what deletes an entity as it was found, on that condition.

        It leaves a marker if the entity may be made by another request, too.
        """
        binds = {'id': entity['id'], 'seen': entity['incarnation']}
        if not (self.is_buried or clock.is_of_second_try(entity['born'])):
            return self.delete, binds
        marker = {'incarnation': clock.incarnation(), 'ttl': BURIED_FOR}
        return self.bury, binds | marker

    def attempts(self, entity_id: object) -> Attempts:
        """Return attempts at a change of an entity."""
        return Attempts(self.table.replace('_', ' '), entity_id)

    def _moved(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        return self.indexes.place(old) != self.indexes.place(new) or any(
            old[name] != new[name] for name in self.guarded
        )

    def _replace(
        self,
        db: Store,
        old: dict[str, Any],
        new: dict[str, Any],
        changes: Changes,
    ) -> bool:
        """Write the changes; return False if another change was first."""
        seen = old['incarnation']
        binds = dict.fromkeys(self.changing, KEEP) | {
            name: value
            for name, value in self.row.encode(changes).items()
            if value is not None or name not in self.map_columns
        }
        if new['incarnation'] != seen:
            binds['incarnation'] = new['incarnation']
        if new['born'] != old['born']:
            binds['born'] = new['born']

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            if row is None:
                return False
            if row['incarnation'] != new['incarnation']:
                # As it was: not made, or overwritten since.
                return None if row['incarnation'] == seen else False
            if new['incarnation'] != seen:
                return True
            # A change of what keeps the incarnation: nobody can tell, if it
            # is not what it should be.
            found = self.row.load(row)
            made = all(
                (found[name] or None) == (new[name] or None)
                if name in self.map_columns  # an empty one is not stored
                else found[name] == new[name]
                for name in changes
            )
            return made or None

        try:
            made = db.cas_settled(
                self.update,
                self.settle,
                self._applied(applied),
                id=old['id'],
                seen=seen,
                **binds,
            )
        except errors.OutcomeUnknown as unknown:
            try:
                return self.fence.is_replaced(db, old, new)
            except errors.StoreUnavailable:
                raise unknown from None
        return bool(made)

    def _applied(self, applied: Applied) -> Applied:
        """Return what tells of an entity, to which a ghost row is none."""
        return lambda row: applied(row if row and self.exists(row) else None)
