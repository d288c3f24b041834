# SPDX-License-Identifier: Apache-2.0
"""Entities with unique names: the entity, and the claims that it needs.

::

    create:  claims -> entity
    change:  new claims -> entity -> old claims given up
    delete:  entity -> claims given up

A change is written as it was computed when its names were claimed, or not at
all: if another one was first, it is computed and claimed again.  What was
claimed and not written in the end is given up.  The column ``stamps`` has the
stamps of the claims, which are given up when a name is.  See
:mod:`~keystone_cassandra_token.tables.unique` for what a claim is, and why one
that is left does no harm.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keystone_cassandra_token.db import errors, parts
from keystone_cassandra_token.db.rows import Row, json_text
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.recent import ReadAheadCache
from keystone_cassandra_token.tables.unique import (
    Claim,
    ClaimSpec,
    Key,
    NameTaken,
    label,
)

#: Begins the stamp of a claim that another attempt may rely on.
_SHARED = 'shared '
#: The stamps of an entity's claims, by what they are called.
STAMPS = Row(stamps=json_text)


class Named:
    """Entities of one table with their claims.

    :ivar claims: those of the names by which entities are found.

    :param entity: the table, with :data:`STAMPS`; the columns of the names are
        guarded in it.
    :param specs: the claims that an entity needs; of the first kind is its
        name, by which it is found.
    """

    def __init__(self, entity: Entity, *specs: ClaimSpec) -> None:
        self.entity = entity
        self.specs = specs
        self.claims = specs[0].claims
        self._owners = ReadAheadCache(4096)

    def find(
        self, db: Store, key: Key, spec: ClaimSpec | None = None
    ) -> dict[str, Any] | None:
        """Return the entity that has a name, or None.

        The last known owner is read first.  If its incarnation is the same, it
        still has the name: a claim is freed only after the row has changed.

        :param spec: which kind of name it is; the first one if not given.
        """
        spec = spec or self.specs[0]
        name = (spec.claims.table, *sorted(key.items()))
        likely, incarnation = self._owners.get(name) or (None, None)
        found = self.entity.find(db, likely)
        if found is None or found['incarnation'] != incarnation:
            found = self.entity.find(db, spec.claims.owner(db, **key))
            # A claim can be there before its entity, and after.
            if found is not None and key not in spec.keys(db, found):
                found = None
            self._owners.set(
                name, found and (found['id'], found['incarnation'])
            )
        return found

    def find_anywhere(
        self, db: Store, key: Key, spec: ClaimSpec | None = None
    ) -> dict[str, Any] | None:
        """Return the entity that has a name, as :meth:`Entity.find_anywhere`.

        :param spec: as for :meth:`find`.
        """
        return self.find(db, key, spec) or self.seek(db, key, spec)

    def seek(
        self, db: Store, key: Key, spec: ClaimSpec | None = None
    ) -> dict[str, Any] | None:
        """Seek the entity that has a name elsewhere, or return None.

        :param spec: as for :meth:`find`.
        """
        if db.escalation is None or not db.escalation.others():
            return None
        spec = spec or self.specs[0]
        claims, entity = spec.claims, self.entity
        # All have agreed on the claim before there was an entity.  If it is
        # here that saves a round trip.
        likely = claims.owner(db, **key)

        def look(there: Store) -> dict[str, Any] | None:
            young = entity.young(there, likely) if likely else None
            if young is None:
                owner = claims.owner(there, **key)
                if owner and owner != likely:
                    young = entity.young(there, owner)
            has_it = young is not None and key in spec.keys(there, young)
            return young if has_it else None

        sought = (claims.table, *sorted(key.items()))
        found = db.escalation.ask(sought, look)
        if found is None:
            return None
        here = db.one(entity.get, entity.row, id=found['id'])
        if here is not None:  # it has arrived, or was deleted here
            has_it = entity.exists(here) and key in spec.keys(db, here)
            return here if has_it else None
        db.escalation.remember(entity.sought(found['id']), found)
        return found

    def find_all(self, db: Store, **part: Any) -> list[dict[str, Any]]:
        """Return the entities whose names have this part of a key."""
        spec = self.specs[0]
        found = self.entity.find_all(db, spec.claims.owners(db, **part))
        return [
            entity
            for entity in found
            if any(
                part.items() <= key.items() for key in spec.keys(db, entity)
            )
        ]

    def check_free(
        self, db: Store, key: Key, spec: ClaimSpec | None = None
    ) -> None:
        """Check that no entity has a name.

        :param spec: as for :meth:`find`.
        :raises NameTaken: if one has.
        """
        if found := self.find(db, key, spec):
            table = (spec or self.specs[0]).claims.table
            raise NameTaken(found['id'], table)

    def create(
        self, db: Store, new: dict[str, Any], ttl: int | None = None
    ) -> None:
        """Create an entity.

        :param new: from ``entity.new``.
        :param ttl: as for the entity.
        :raises NameTaken: if a name or its id is in use.
        """

        def check_free() -> None:
            if self.entity.find(db, new['id']):
                raise NameTaken(new['id'])

        def claim() -> None:
            attempt.claim(self._names(db, new), check_free)
            new['stamps'] = attempt.stamps(new['id'])

        with _attempt(db, ttl) as attempt:
            if not self.entity.create(db, new, ttl, attempt.renew, claim):
                raise NameTaken(new['id'])
            attempt.keep()

    def create_all(
        self,
        db: Store,
        new: Sequence[dict[str, Any]],
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Create several entities, or none.

        A name that is taken ends it before anybody has seen one of them.

        :param new: each from ``entity.new``.
        :param check: raises if they must not be; called once they are there.
        :raises NameTaken: if a name or an id is in use.
        """
        ids = [each['id'] for each in new]
        if len(set(ids)) < len(ids):
            raise NameTaken(max(ids, key=ids.count))
        if found := self.entity.find_all(db, ids):
            raise NameTaken(found[0]['id'])
        with _attempt(db) as attempt:
            attempt.claim(
                [name for each in new for name in self._names(db, each)]
            )
            for each in new:
                each['stamps'] = attempt.stamps(each['id'])
            try:
                if new and not self.entity.create_all(db, new, attempt.renew):
                    raise NameTaken(ids[0])
                check()
            except Exception:
                self._discard_all(db, new)
                raise
            attempt.keep()

    def _discard_all(
        self, db: Store, new: Sequence[Mapping[str, Any]]
    ) -> None:
        try:
            parts.each(db, self.entity.discard, new)
        except errors.StoreUnavailable as failure:
            # Some may be there, and need their names.
            raise errors.OutcomeUnknown(failure.reason) from failure

    def change(
        self,
        db: Store,
        entity_id: str,
        changes: Callable[[dict[str, Any]], Mapping[str, Any]],
    ) -> dict[str, Any] | None:
        """Change an entity, its names too; return what it has become.

        :param changes: returns the changes for what it is now.
        :returns: None if there is none.
        :raises NameTaken: if somebody else has a new name.
        """
        attempts = self.entity.attempts(entity_id)
        with _attempt(db) as attempt:
            while attempts.another():
                old = self.entity.find(db, entity_id)
                if old is None:
                    return None
                wanted = {**changes(old)}
                new = self.entity.changed(old, wanted)
                before, after = self._names(db, old), self._names(db, new)
                gained = [name for name in after if name not in before]
                lost = [name for name in before if name not in after]
                # Of one that was made, and could not be seen to be.
                attempt.keep_what_is_in(old)
                attempt.claim(gained)
                claims = _claims_of(db, old, lost)
                if gained or lost:
                    kept = old['stamps'] or {}
                    kept = {
                        name.label: kept[name.label]
                        for name in after
                        if name.label in kept
                    }
                    stamps = kept | attempt.stamps(entity_id)
                    wanted['stamps'] = new['stamps'] = stamps
                if self.entity.replace(db, old, new, wanted):
                    attempt.keep(gained)
                    _give_up(db, claims)
                    return new

    def remove(
        self,
        db: Store,
        entity_id: str,
        provided: Callable[[dict[str, Any]], bool] = lambda entity: True,
    ) -> dict[str, Any] | None:
        """Delete an entity; return what it was, None if there was none.

        :param provided: whether what it is now may be deleted; else it is
            left, and None returned.
        """
        attempts = self.entity.attempts(entity_id)
        while attempts.another():
            old = self.entity.find(db, entity_id)
            if old is None or not provided(old):
                return None
            claims = _claims_of(db, old, self._names(db, old))
            if self.entity.discard(db, old):
                _give_up(db, claims)
                return old

    def _names(self, db: Store, entity: Mapping[str, Any]) -> list[_Name]:
        return [
            _Name(self, spec, entity['id'], key)
            for spec in self.specs
            for key in spec.keys(db, entity)
        ]


class _Name:
    """A name that an entity needs; an owner of its claim is an entity."""

    def __init__(
        self, named: Named, spec: ClaimSpec, owner: str, key: Key
    ) -> None:
        self._named = named
        self._spec = spec
        self.owner = owner
        self.key = key
        self.claims = spec.claims
        self.label = label(spec.claims.table, key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Name) and (
            (self.owner, self.label) == (other.owner, other.label)
        )

    def __hash__(self) -> int:
        return hash((self.owner, self.label))

    def has(self, db: Store, owner: str, key: Key) -> bool:
        """As :class:`~.unique.Owners` says."""
        entity = self._named.entity
        found = entity.find(db, owner, entity.get_everywhere)
        return found is not None and key in self._spec.keys(db, found)

    def fence(self, db: Store, owner: str) -> None:
        """As :class:`~.unique.Owners` says."""
        self._named.entity.fence.put_everywhere(db, owner)


class _Attempt:
    """The claims that one creation or change has made so far."""

    def __init__(self, db: Store, ttl: int | None) -> None:
        self._db = db
        self._ttl = ttl
        self._made: dict[_Name, Claim] = {}

    def claim(
        self,
        names: Sequence[_Name],
        check_free: Callable[[], object] = lambda: None,
    ) -> None:
        """Claim names; what was claimed before is made sure of.

        :param check_free: as for :meth:`~.unique.Claims.take`.
        :raises NameTaken: if somebody else has one of them.
        """

        def claim(db: Store, name: _Name) -> None:
            made = self._made.get(name)
            self._made[name] = (
                name.claims.take(
                    db, name.owner, name.key, name, self._ttl, check_free
                )
                if made is None
                else name.claims.renew(db, made)
            )

        try:
            parts.each(self._db, claim, names)
        except errors.OutcomeUnknown:
            # Of a claim, which does no harm; nothing was written by it.
            self.give_up()
            raise

    def renew(self, new: Mapping[str, Any]) -> dict[str, Any]:
        """Make sure of the claims of an entity; return its stamps.

        :raises NameTaken: if somebody else may have one of the names.
        """
        self.claim([name for name in self._made if name.owner == new['id']])
        return {'stamps': self.stamps(new['id'])}

    def stamps(self, owner: str) -> dict[str, str]:
        """Return the stamps of an entity's claims, as its row keeps them."""
        return {
            name.label: _written(claim)
            for name, claim in self._made.items()
            if name.owner == owner
        }

    def keep(self, names: Iterable[_Name] | None = None) -> None:
        """Keep the claims of names that were written; all if not given."""
        for name in list(self._made) if names is None else names:
            self._made.pop(name, None)

    def keep_what_is_in(self, entity: Mapping[str, Any]) -> None:
        """Keep the claims under which a row has its names."""
        row = entity['stamps'] or {}
        self.keep(
            [
                name
                for name, claim in self._made.items()
                if row.get(name.label) == _written(claim)
            ]
        )

    def give_up(self) -> None:
        """Give up what is not kept, but for what another may rely on."""
        made, self._made = self._made, {}
        _give_up(self._db, [each for each in made.values() if not each.shared])


@contextlib.contextmanager
def _attempt(db: Store, ttl: int | None = None) -> Iterator[_Attempt]:
    """Begin an attempt; at its end what it has not kept is given up.

    Unless an entity may yet be written: the claim protects it then.
    """
    attempt = _Attempt(db, ttl)
    try:
        yield attempt
    except errors.OutcomeUnknown:
        raise
    except Exception:
        attempt.give_up()
        raise
    attempt.give_up()


def _claims_of(
    db: Store, entity: Mapping[str, Any], names: Sequence[_Name]
) -> list[Claim]:
    """Return the claims under which names of an entity were written.

    Without those that were shared: another attempt, in another datacenter, may
    yet write a name under one.
    """
    stamps = entity['stamps'] or {}
    claims: list[Claim] = []
    for name in names:
        stamp = stamps.get(name.label)
        if stamp is None:  # a server of an older version wrote the name
            claim = name.claims.find(db, name.owner, name.key)
            claims += [claim] if claim else []
        elif not stamp.startswith(_SHARED):
            key, owner = name.key, name.owner
            claims.append(Claim(name.claims, key, owner, uuid.UUID(stamp)))
    return claims


def _written(claim: Claim) -> str:
    """Return how a row keeps the stamp of a claim."""
    return f'{_SHARED if claim.shared else ""}{claim.stamp}'


def _give_up(db: Store, claims: Sequence[Claim]) -> None:
    parts.each(
        db, lambda store, each: each.claims.give_up(store, each), claims
    )
