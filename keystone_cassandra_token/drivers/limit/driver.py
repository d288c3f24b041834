# SPDX-License-Identifier: Apache-2.0
"""``keystone.unified_limit`` on Cassandra.

``registered_limit`` and ``limit`` are the source of truth, with a claim for
what is unique in each; ``limit_by_*`` hold ids.  A limit has service, region
and resource of its registered limit in its own row, so that one read is
enough.  They stay equal, since a registered limit with limits is not changed
or deleted, also while a limit is being made::

    create a limit:    limit -> read the registered limit; if a change or a
                       deletion is in progress, remove the limit
    change or delete:  mark it in progress (``closed_at``) -> look for limits;
                       if there are any, cancel -> change or delete

Each reads after it has written, so at least one of the two sees the other.  A
mark older than a minute was left by a server that died; a creator cancels it.
This is exact within a datacenter.  Two datacenters that do both at the same
moment can leave a limit without a registered limit, which is listed and can be
deleted.

Several that are made by one call are claimed first, then written, then their
claims are confirmed (``tables.named``).  If one cannot be made, the others are
removed.  A server that dies between the steps leaves

* of registered limits all or none, since one request writes them;
* of limits perhaps the first ones, each a whole one that can be deleted;
* of both perhaps names that are taken for a minute.

Unlike with the SQL driver no foreign key keeps the service and the region of
a registered limit.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from keystone import exception
from keystone.common.driver_hints import Hints
from keystone.i18n import _
from keystone.limit.backends import base

from keystone_cassandra_token.compat import listing
from keystone_cassandra_token.compat.conflicts import conflict
from keystone_cassandra_token.db import clock, errors, parts
from keystone_cassandra_token.db.cql import scan
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.limit import limits as rows
from keystone_cassandra_token.drivers.limit.limits import (
    BY_DOMAIN,
    BY_PROJECT,
    BY_REGISTERED_LIMIT,
    CALLED,
    LIMIT,
    LIMITS,
    REGISTERED_LIMITS,
)
from keystone_cassandra_token.tables.index import Index
from keystone_cassandra_token.tables.unique import NameTaken

Stored = dict[str, Any]

#: Filters that compare as names do; the others compare exactly.
_NAMES = ('resource_name', 'description')
#: For how long a change may look for limits.
CLOSED = datetime.timedelta(minutes=1)
_LONGEST_ID = 64

# Keystone lists the limits of all projects for an administrator.
LIST = scan(f'SELECT {LIMITS.entity.row} FROM limit')


class UnifiedLimit(Driver, base.UnifiedLimitDriverBase):
    """Registered limits and limits in Cassandra."""

    def create_registered_limits(
        self, registered_limits: Iterable[Mapping[str, Any]]
    ) -> list[Stored]:
        names: list[dict[str, str]] = []
        new = []
        with conflict('registered_limit'):
            try:
                for given in registered_limits:
                    made = rows.new_registered(given)
                    name = rows.name_key(self.db, made)
                    if name in names:
                        raise NameTaken(made['id'])
                    names.append(name)
                    new.append(made)
            finally:
                # As with SQL, one before what is wrong counts first.
                parts.each(self.db, REGISTERED_LIMITS.check_free, names)
            REGISTERED_LIMITS.create_all(self.db, new)
        return [rows.registered_to_ref(each) for each in new]

    def update_registered_limit(
        self, registered_limit_id: str, registered_limit: Mapping[str, Any]
    ) -> Stored:
        attempts = REGISTERED_LIMITS.entity.attempts(registered_limit_id)
        while attempts.another():
            old = self._unused(registered_limit_id)
            changes = rows.changes_of_registered(registered_limit)
            changes.pop('id', None)
            with (
                contextlib.suppress(_ChangeCancelled),
                conflict('registered_limit'),
            ):
                if self._is_renamed(changes):
                    # As with SQL, also where it keeps its name.
                    name = rows.name_key(self.db, old | changes)
                    REGISTERED_LIMITS.check_free(self.db, name)
                changed = self._update(registered_limit_id, changes)
                return rows.registered_to_ref(changed)

    def list_registered_limits(self, hints: Hints) -> list[Stored]:
        found = self._filtered(
            self._all(), hints, rows.REGISTERED_LIMIT.attributes
        )
        return [rows.registered_to_ref(each) for each in found]

    def get_registered_limit(self, registered_limit_id: str) -> Stored:
        found = self._registered(registered_limit_id)
        return rows.registered_to_ref(found)

    def delete_registered_limit(self, registered_limit_id: str) -> None:
        attempts = REGISTERED_LIMITS.entity.attempts(registered_limit_id)
        while attempts.another():
            self._unused(registered_limit_id)
            with contextlib.suppress(_ChangeCancelled):
                return self._delete(registered_limit_id)

    def create_limits(
        self, limits: Iterable[Mapping[str, Any]]
    ) -> list[Stored]:
        by_name = [
            (rows.name_key(self.db, each), each) for each in self._all()
        ]
        targets: list[dict[str, str]] = []
        new = []
        with conflict('limit'):
            try:
                for given in limits:
                    name = rows.name_key(self.db, given)
                    registered = [each for key, each in by_name if key == name]
                    if not registered:
                        raise exception.NoLimitReference()
                    made = rows.new(given, registered[0])
                    target = rows.target_key(self.db, made)
                    if target in targets:
                        raise NameTaken(made['id'])
                    targets.append(target)
                    new.append(made)
            finally:
                parts.each(self.db, LIMITS.check_free, targets)
            LIMITS.create_all(
                self.db, new, check=lambda: self._check_no_change(new)
            )
        return [rows.to_ref(each) for each in new]

    def update_limit(self, limit_id: str, limit: Mapping[str, Any]) -> Stored:
        # As with SQL: nothing else changes, and nothing becomes 0 or empty.
        changes = {
            name: limit[name]
            for name in ('resource_limit', 'description')
            if limit.get(name)
        }
        changed = LIMITS.entity.change(self.db, limit_id, changes)
        if changed is None:
            raise exception.LimitNotFound(id=limit_id)
        return rows.to_ref(changed)

    def list_limits(self, hints: Hints) -> list[Stored]:
        found = self._filtered(
            self._candidates(hints),
            hints,
            (*LIMIT.attributes, 'registered_limit_id'),
        )
        return [rows.to_ref(each) for each in found]

    def get_limit(self, limit_id: str) -> Stored:
        found = LIMITS.entity.find(self.db, limit_id)
        if found is None:
            raise exception.LimitNotFound(id=limit_id)
        return rows.to_ref(found)

    def delete_limit(self, limit_id: str) -> None:
        if LIMITS.remove(self.db, limit_id) is None:
            raise exception.LimitNotFound(id=limit_id)

    def delete_limits_for_project(self, project_id: str) -> list[str]:
        found = LIMITS.entity.find_by(self.db, BY_PROJECT, project_id)
        ids = [limit['id'] for limit in found]
        parts.each(self.db, LIMITS.remove, ids)
        return ids

    def _all(self) -> list[Stored]:
        """Return all registered limits, as they were made or last renamed.

        SQL too lists them as they were made.
        """
        return sorted(
            REGISTERED_LIMITS.entity.all(self.db),
            key=lambda each: each['incarnation'].time,
        )

    def _registered(self, registered_limit_id: str) -> Stored:
        found = REGISTERED_LIMITS.entity.find(self.db, registered_limit_id)
        if found is None:
            raise exception.RegisteredLimitNotFound(id=registered_limit_id)
        return found

    def _unused(self, registered_limit_id: str) -> Stored:
        """Return a registered limit that has no limits.

        :raises keystone.exception.RegisteredLimitNotFound: if there is none.
        :raises keystone.exception.RegisteredLimitError: if it has some.
        """
        found = self._registered(registered_limit_id)
        ids = BY_REGISTERED_LIMIT.ids_after(
            self.db, registered_limit_id, None, 1
        )
        while some := list(itertools.islice(ids, 16)):
            if LIMITS.entity.find_all(self.db, some):
                raise exception.RegisteredLimitError(id=registered_limit_id)
        return found

    def _delete(self, registered_limit_id: str) -> None:
        """Delete a registered limit while nobody can make limits on it."""
        with self._change_in_progress(registered_limit_id) as marked:
            if not REGISTERED_LIMITS.remove(
                self.db,
                registered_limit_id,
                provided=lambda now: now['incarnation'] == marked,
            ):
                raise _ChangeCancelled

    def _update(
        self, registered_limit_id: str, changes: Mapping[str, Any]
    ) -> Stored:
        """Change a registered limit while nobody can make limits on it."""
        with self._change_in_progress(registered_limit_id) as marked:

            def unless_cancelled(now: Stored) -> Mapping[str, Any]:
                if now['incarnation'] != marked:
                    raise _ChangeCancelled
                if self._is_renamed(changes) and (
                    rows.name_key(self.db, {**now, **changes})
                    == rows.name_key(self.db, now)
                ):
                    # Another one gave it this name since that was looked for.
                    raise NameTaken(registered_limit_id)
                return {**changes, 'closed_at': None}

            changed = REGISTERED_LIMITS.change(
                self.db, registered_limit_id, unless_cancelled
            )
            if changed is None:
                raise _ChangeCancelled
        return changed

    @staticmethod
    def _is_renamed(changes: Mapping[str, Any]) -> bool:
        """Return whether changes name what a registered limit is called by."""
        return not changes.keys().isdisjoint(CALLED)

    @contextlib.contextmanager
    def _change_in_progress(
        self, registered_limit_id: str
    ) -> Iterator[uuid.UUID]:
        """Mark a change in progress, so that no limit is made meanwhile.

        :returns: yields its incarnation, which changes on a cancellation.
        :raises keystone.exception.RegisteredLimitNotFound: as ``_unused``.
        :raises keystone.exception.RegisteredLimitError: as ``_unused``.
        """
        now = clock.utcnow()
        marked = REGISTERED_LIMITS.entity.change(
            self.db, registered_limit_id, {'closed_at': now}
        )
        if marked is None:
            raise exception.RegisteredLimitNotFound(id=registered_limit_id)
        try:
            self._unused(registered_limit_id)
            yield marked['incarnation']
        except BaseException:
            with contextlib.suppress(errors.StoreUnavailable):
                self._cancel_change(registered_limit_id, now)
            raise

    def _cancel_change(
        self, registered_limit_id: str, closed_at: datetime.datetime
    ) -> Stored | None:
        """End a change in progress, if it began at this time.

        Return what it is now, None if it is gone.
        """
        return REGISTERED_LIMITS.entity.change(
            self.db,
            registered_limit_id,
            lambda now: (
                {'closed_at': None} if now['closed_at'] == closed_at else {}
            ),
        )

    def _check_no_change(self, limits: Iterable[Stored]) -> None:
        """Check that no registered limit of new limits is being changed.

        :raises keystone.exception.NoLimitReference: if one is not there, or
            has another name by now.
        :raises keystone.exception.Conflict: if one is being changed.
        """
        by_id = {limit['registered_limit_id']: limit for limit in limits}
        # A serial read sees a change in progress.
        there = {
            found['id']: found
            for found in REGISTERED_LIMITS.entity.all_settled(self.db)
        }
        for registered_limit_id, limit in by_id.items():
            found = there.get(registered_limit_id)
            closed_at = found and found['closed_at']
            if closed_at and clock.utcnow() - closed_at >= CLOSED:
                found = self._cancel_change(registered_limit_id, closed_at)
            if found is None or any(
                found[name] != limit[name] for name in CALLED
            ):
                raise exception.NoLimitReference()
            if found['closed_at'] is not None:
                raise exception.Conflict(
                    type='limit',
                    details=_('Registered limit %s is being changed')
                    % registered_limit_id,
                )

    def _candidates(self, hints: Hints) -> Iterable[Stored]:
        """Return the limits among which a list looks."""
        wanted = {
            entry['name']: entry['value']
            for entry in hints.filters
            if entry['comparator'] == 'equals'
        }
        for index in (BY_PROJECT, BY_DOMAIN, BY_REGISTERED_LIMIT):
            value = wanted.get(index.column)
            if isinstance(value, str):
                return self._indexed(index, value)
        called = Hints()
        for name in wanted.keys() & set(CALLED):
            called.add_filter(name, wanted[name])
        if called.filters:
            return [
                limit
                for each in self._filtered(self._all(), called, CALLED)
                for limit in self._indexed(BY_REGISTERED_LIMIT, each['id'])
            ]
        found = LIMITS.entity.scanned(self.db, LIST)
        if hints.limit is None or hints.filters:
            return found
        # One more than the limit tells that the list was cut.
        return itertools.islice(found, hints.limit['limit'] + 1)

    def _indexed(self, index: Index, value: str) -> list[Stored]:
        # As SQL, which does not ask for an id that is none.
        if not 0 < len(value) <= _LONGEST_ID:
            return []
        return LIMITS.entity.find_by(self.db, index, value)

    def _filtered(
        self,
        found: Iterable[Stored],
        hints: Hints,
        attributes: Collection[str],
    ) -> list[Stored]:
        """Return what all filters on these attributes let pass, cut."""
        names = [name for name in attributes if name in _NAMES]
        others = [name for name in attributes if name not in _NAMES]
        found = listing.filter_by_hints(
            found, hints, names, self.conf.cassandra.name_comparison
        )
        found = listing.filter_by_hints(found, hints, others, 'sensitive')
        return listing.limit(found, hints)


class _ChangeCancelled(Exception):
    """Somebody has changed a registered limit since it was closed."""
