# SPDX-License-Identifier: Apache-2.0
"""Entities with unique names: the entity, and the claims that it holds.

::

    create:  claim pending -> entity -> claim held
    rename:  old claim pending -> new claim pending -> entity
             -> new claim held -> old claim freed
    delete:  claim pending -> entity -> claim freed

A reader sees the old state or the new one, whichever step a process dies
after.  A pending claim that is left can be taken over after a minute, unless
its owner still has the name.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keystone_cassandra_token.db import cql, errors, parts
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.recent import ReadAheadCache
from keystone_cassandra_token.tables.unique import Claims, Key, NameTaken


class _Renamed(Exception):
    """The name was changed since it was read."""


class Named:
    """Entities of one table with their claims.

    :param entity: the table; the columns of the name are guarded in it.
    :param claims: the table of claims.
    :param key: returns the key of an entity's claim, None if it needs none,
        or a list of keys if it has several names.
    """

    def __init__(
        self,
        entity: Entity,
        claims: Claims,
        key: Callable[[Store, Mapping[str, Any]], Key | list[Key] | None],
    ) -> None:
        self.entity = entity
        self.claims = claims
        self._key = key
        self.get_everywhere = cql.escalated_read(entity.get.cql)
        self._owners = ReadAheadCache(4096)

    def keys(self, db: Store, entity: Mapping[str, Any]) -> list[Key]:
        """Return the keys of the claims that an entity needs."""
        keys = self._key(db, entity)
        if keys is None:
            return []
        return keys if isinstance(keys, list) else [keys]

    def find(self, db: Store, key: Key) -> dict[str, Any] | None:
        """Return the entity that has a name, or None.

        The last known owner is read first.  If its incarnation is the same, it
        still has the name: a claim is freed only after the row has changed.
        """
        name = tuple(sorted(key.items()))
        likely, incarnation = self._owners.get(name) or (None, None)
        found = self.entity.find(db, likely)
        if found is None or found['incarnation'] != incarnation:
            found = self.entity.find(db, self.claims.owner(db, **key))
            # A claim can be there before its entity, and after.
            if found is not None and key not in self.keys(db, found):
                found = None
            self._owners.set(
                name, found and (found['id'], found['incarnation'])
            )
        return found

    def find_all(self, db: Store, **part: Any) -> list[dict[str, Any]]:
        """Return the entities whose names have this part of a key."""
        found = self.entity.find_all(db, self.claims.owners(db, **part))
        return [
            entity
            for entity in found
            if any(
                part.items() <= key.items() for key in self.keys(db, entity)
            )
        ]

    def check_free(self, db: Store, key: Key) -> None:
        """Check that no entity has a name.

        :raises NameTaken: if one has.
        """
        if found := self.find(db, key):
            raise NameTaken(found['id'], self.claims.table)

    def create(
        self, db: Store, new: dict[str, Any], ttl: int | None = None
    ) -> None:
        """Create an entity.

        :param new: from ``entity.new``.
        :param ttl: as for the entity.
        :raises NameTaken: if its name or its id is in use.
        """
        if self.entity.find(db, new['id']):
            # Before a write that would have to be undone.
            raise NameTaken(new['id'])
        with self._claimed(
            db,
            new['id'],
            self.keys(db, new),
            undo=lambda: self.entity.discard(db, new),
            ttl=ttl,
        ):
            if not self.entity.create(db, new, ttl):
                raise NameTaken(new['id'])

    def create_all(
        self,
        db: Store,
        new: Sequence[dict[str, Any]],
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Create several entities, or none.

        ::

            all claims pending -> entities -> all claims held

        So a name that is taken ends it before anybody has seen one of them.

        :param new: each from ``entity.new``.
        :param check: raises if they must not be; called once they are there.
        :raises NameTaken: if a name or an id is in use.
        """
        ids = [each['id'] for each in new]
        if len(set(ids)) < len(ids):
            raise NameTaken(max(ids, key=ids.count))
        if found := self.entity.find_all(db, ids):
            raise NameTaken(found[0]['id'])
        made = False
        try:
            with self.claims.all_claimed(
                db,
                [
                    (each['id'], key)
                    for each in new
                    for key in self.keys(db, each)
                ],
                exists=functools.partial(self._has, db.for_helpers()),
                undo=lambda: parts.each(db, self.entity.discard, new),
            ):
                if new and not self.entity.create_all(db, new):
                    raise NameTaken(ids[0])
                check()
                made = True
        except BaseException:
            if made:
                # Those whose claims are held already are not undone by that.
                with contextlib.suppress(errors.StoreUnavailable):
                    for entity_id in ids:
                        self.remove(db, entity_id)
            raise

    def change(
        self,
        db: Store,
        entity_id: str,
        changes: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> dict[str, Any] | None:
        """Change an entity, its name too; return what it has become.

        :param changes: returns the changes for what it is now.
        :returns: None if there is none.
        :raises NameTaken: if somebody else has the new name.
        """
        attempts = self.entity.attempts(entity_id)
        while attempts.another():
            old = self.entity.find(db, entity_id)
            if old is None:
                return None
            wanted = changes(old)
            with contextlib.suppress(_Renamed):
                return self._change(db, old, {**old, **wanted}, changes)

    def _change(
        self,
        db: Store,
        old: dict[str, Any],
        new: dict[str, Any],
        changes: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> dict[str, Any] | None:
        entity_id = old['id']
        old_keys, new_keys = self.keys(db, old), self.keys(db, new)
        tried = False

        def unless_renamed(now: dict[str, Any]) -> Mapping[str, Any]:
            nonlocal tried
            # An equal rename that another made is not this one's to undo.
            tried = self.keys(db, now) == old_keys
            if not tried:
                raise _Renamed
            return changes(now)

        def rename_back() -> None:
            if not tried:
                return
            names = {
                name: old[name]
                for name in self.entity.guarded
                if old[name] != new[name]
            }
            self.entity.change(
                db,
                entity_id,
                lambda now: names if self.keys(db, now) == new_keys else {},
            )

        with (
            self.claims.releasing(
                db,
                entity_id,
                [key for key in old_keys if key not in new_keys],
                exists=lambda owner, key: self._has(db, owner, key),
            ),
            self._claimed(
                db,
                entity_id,
                [key for key in new_keys if key not in old_keys],
                undo=rename_back,
            ),
        ):
            return self.entity.change(db, entity_id, unless_renamed)

    def remove(
        self,
        db: Store,
        entity_id: str,
        ttl: int | None = None,
        provided: Callable[[dict[str, Any]], bool] | None = None,
    ) -> dict[str, Any] | None:
        """Delete an entity; return what it was, None if there was none.

        :param ttl: seconds that are left of what expires.
        :param provided: whether what it is now may be deleted; else it is
            left, and None returned.
        """
        attempts = self.entity.attempts(entity_id)
        while attempts.another():
            old = self.entity.find(db, entity_id)
            if old is None or (provided and not provided(old)):
                return None
            with contextlib.suppress(_Renamed):
                with self.claims.releasing(
                    db,
                    entity_id,
                    self.keys(db, old),
                    exists=lambda owner, key: self._has(db, owner, key),
                    ttl=ttl,
                ):
                    if not self.entity.discard(db, old):
                        raise _Renamed  # or deleted: looked at again
                return old

    def _claimed(
        self,
        db: Store,
        owner: str,
        keys: list[Key],
        undo: Callable[[], object],
        ttl: int | None = None,
    ) -> contextlib.AbstractContextManager[None]:
        return self.claims.all_claimed(
            db,
            [(owner, key) for key in keys],
            exists=functools.partial(self._has, db.for_helpers()),
            undo=undo,
            ttl=ttl,
        )

    def _has(self, db: Store, owner: str, key: Key) -> bool:
        """Return whether any datacenter knows this owner by this name."""
        found = self.entity.find(db, owner, self.get_everywhere)
        return found is not None and key in self.keys(db, found)
