# SPDX-License-Identifier: Apache-2.0
"""``keystone.resource`` on Cassandra: projects, and domains as such.

``project`` is the source of truth, with ``project_by_domain``,
``project_by_parent`` and ``project_by_tag`` as indexes and a claim for each
name (``tables.named`` says in which order they are written
and what a crash leaves).

A project with children is not deleted, also while one is being added::

    create:  child -> read the parent; if it is absent or its deletion is in
             progress, remove the child
    delete:  mark the deletion in progress (``closed_at``) -> look for
             children; if there are any, cancel -> delete

Each reads after it has written, so at least one of the two sees the other.  A
mark older than a minute was left by a server that died; a creator cancels that
deletion.  This is exact within a datacenter.  Two datacenters that do both at
the same moment can leave a child without a parent, and so can a server that
dies before it reads.  Such a child can be read, listed and deleted.

Unlike with the SQL driver a missing parent or domain is reported as missing.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import graphlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from keystone import exception
from keystone.common import driver_hints, utils
from keystone.i18n import _
from keystone.resource.backends import base
from keystone.resource.backends.base import NULL_DOMAIN_ID
from oslo_log import log

from keystone_cassandra_token.compat import listing, pages
from keystone_cassandra_token.compat.conflicts import conflict
from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.db.cql import scan
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.resource import projects
from keystone_cassandra_token.drivers.resource.projects import (
    BY_DOMAIN,
    BY_PARENT,
    BY_TAG,
    PROJECT,
    PROJECTS,
)
from keystone_cassandra_token.tables.recent import ReadAheadCache
from keystone_cassandra_token.tables.unique import NameTaken

LOG = log.getLogger(__name__)

Project = dict[str, Any]

_FILTERS = [name for name in PROJECT.attributes if name != 'tags']
#: For how long a deletion may look for children.
CLOSED = datetime.timedelta(minutes=1)
#: Of a project: the ids of those above it.
_ABOVE = ReadAheadCache(4096)

# An administrator lists the projects of all domains.
LIST = scan(f'SELECT {PROJECTS.entity.row} FROM project')


class Resource(Driver, base.ResourceDriverBase):
    """Projects and domains in Cassandra."""

    def list_projects(self, hints: driver_hints.Hints) -> list[Project]:
        for entry in hints.filters:
            if entry['name'] == 'domain_id' and entry['value'] is None:
                entry['value'] = NULL_DOMAIN_ID
        found, in_order = self._candidates(hints)
        passes = listing.predicate_from_hints(
            hints, _FILTERS, self.conf.cassandra.name_comparison
        )
        chosen = listing.page(hints, filter(passes, found), in_order)
        return [projects.to_ref(project) for project in chosen]

    def list_projects_from_ids(
        self, project_ids: Iterable[str]
    ) -> list[Project]:
        found = PROJECTS.entity.find_all(self.db, dict.fromkeys(project_ids))
        return [projects.to_ref(project) for project in found]

    def list_project_ids_from_domain_ids(
        self, domain_ids: Iterable[str]
    ) -> list[str]:
        return [
            project['id']
            for domain_id in dict.fromkeys(domain_ids)
            for project in PROJECTS.entity.find_by(
                self.db, BY_DOMAIN, domain_id
            )
        ]

    def list_projects_in_domain(self, domain_id: str) -> list[Project]:
        if PROJECTS.entity.find(self.db, domain_id) is None:
            raise exception.DomainNotFound(domain_id=domain_id)
        found = PROJECTS.entity.find_by(self.db, BY_DOMAIN, domain_id)
        return [projects.to_ref(project) for project in found]

    def get_project(self, project_id: str) -> Project:
        return projects.to_ref(self._project(project_id))

    def update_project(
        self, project_id: str, project: Mapping[str, Any]
    ) -> Project:
        changes = projects.to_row(project)
        changes.pop('id', None)
        with conflict('project', project):
            _check_tags(project_id, changes)
            changed = PROJECTS.change(self.db, project_id, lambda _: changes)
        if changed is None:
            raise exception.ProjectNotFound(project_id=project_id)
        return projects.to_ref(changed, with_extra=True)

    def delete_project(self, project_id: str) -> None:
        attempts = PROJECTS.entity.attempts(project_id)
        while attempts.another():
            if self._delete(project_id):
                return

    def list_project_parents(self, project_id: str) -> list[Project] | None:
        # A log-in asks for this twice and a validation four times; what was
        # above the project last time is read along.
        likely = [project_id, *(_ABOVE.get(project_id) or ())]
        known = {
            project['id']: project
            for project in PROJECTS.entity.find_all(self.db, likely)
        }
        project = known.get(project_id) or self._project(project_id)
        parents: list[Project] = []
        examined = set()
        while project['parent_id'] is not None:
            if project['id'] in examined:
                _log_circle(project['id'])
                return None
            examined.add(project['id'])
            above = project['parent_id']
            project = known.get(above) or self._project(above)
            parents.append(projects.to_ref(project))
        _ABOVE.set(project_id, [parent['id'] for parent in parents] or None)
        return parents

    def list_projects_in_subtree(
        self, project_id: str
    ) -> list[Project] | None:
        subtree: list[Project] = []
        examined = {project_id}
        for level in self._levels(project_id):
            for project in level:
                if project['id'] in examined:
                    _log_circle(project['id'])
                    return None
            examined.update(project['id'] for project in level)
            subtree += level
        return [projects.to_ref(project) for project in subtree]

    def is_leaf_project(self, project_id: str) -> bool:
        return not any(
            project['parent_id'] == project_id
            for project in self._inside(project_id)
        )

    def create_project(
        self, project_id: str, project: Mapping[str, Any]
    ) -> Project:
        new = PROJECTS.entity.new(
            {
                'is_domain': False,
                'tags': [],
                **projects.to_row(project),
                'id': project_id,
            }
        )
        if project_id == NULL_DOMAIN_ID:
            return projects.to_ref(new)  # always there, and no row
        with conflict('project', project):
            _check_tags(project_id, new)
            PROJECTS.create(self.db, new)
        try:
            self._check_above(new)
        except BaseException:
            # While Cassandra is away it cannot be taken back: it stays, and
            # is listed.
            with contextlib.suppress(errors.StoreUnavailable):
                PROJECTS.remove(self.db, project_id)
            raise
        return projects.to_ref(new)

    def get_project_by_name(
        self, project_name: str, domain_id: str | None
    ) -> Project:
        project = PROJECTS.find_anywhere(
            self.db,
            projects.key(self.db, domain_id or NULL_DOMAIN_ID, project_name),
        )
        if project is None:
            raise exception.ProjectNotFound(project_id=project_name)
        return projects.to_ref(project)

    def delete_projects_from_ids(self, project_ids: Collection[str]) -> None:
        found = {
            project['id']: project
            for project in PROJECTS.entity.find_all(self.db, project_ids)
        }
        for project_id in project_ids:
            if project_id not in found:
                LOG.warning(
                    'Project %s does not exist and was not deleted.',
                    project_id,
                )
        for project_id in _children_first(found):
            # By somebody else, meanwhile?
            with contextlib.suppress(exception.ProjectNotFound):
                self.delete_project(project_id)

    def list_projects_acting_as_domain(
        self, hints: driver_hints.Hints
    ) -> list[Project]:
        hints.add_filter('is_domain', True)
        return self.list_projects(hints)

    def check_project_depth(self, max_depth: int) -> list[str]:
        parents = {
            project['id']: project['parent_id'] for project in self._all()
        }
        return [
            project_id
            for project_id in parents
            if _has_ancestors(project_id, max_depth, parents)
        ]

    def list_projects_by_tags(
        self, filters: Mapping[str, str]
    ) -> list[Project]:
        # Step by step as the SQL driver, whose answers to several filters at
        # once follow from its steps alone.
        tags = {name: filters[name].split(',') for name in filters}
        chosen: list[str] = []
        if 'tags' in tags:
            chosen = self._with_all(tags['tags'])
        if 'tags-any' in tags:
            some = self._with_any(tags['tags-any'])
            chosen = (
                [each for each in some if each in chosen]
                if 'tags' in tags
                else list(some)
            )
        if 'not-tags' in tags:
            chosen = self._without(self._with_all(tags['not-tags']), chosen)
        if 'not-tags-any' in tags:
            some = self._with_any(tags['not-tags-any'])
            if 'not-tags' in tags:
                chosen += some
            else:
                chosen = self._without(some, chosen)
        return self.list_projects_from_ids(chosen)

    def _project(self, project_id: str) -> Project:
        project = PROJECTS.entity.find_anywhere(self.db, project_id)
        if project is None:
            raise exception.ProjectNotFound(project_id=project_id)
        return project

    def _all(self) -> Iterator[Project]:
        return PROJECTS.entity.scanned(self.db, LIST)

    def _candidates(
        self, hints: driver_hints.Hints
    ) -> tuple[Iterable[Project], bool]:
        """Return what a list is chosen from, as ``pages.candidates``."""
        wanted = {
            entry['name']: entry['value']
            for entry in hints.filters
            if entry['comparator'] == 'equals'
        }
        if not wanted.keys() & {'name', 'domain_id'}:
            parent_id = wanted.get('parent_id')
            if isinstance(parent_id, str):
                children = self._children(parent_id)
                return pages.after_marker(
                    self.db, hints, PROJECTS, children
                ), False
            if utils.attr_as_boolean(wanted.get('is_domain', False)):
                domains = self._of_domain(NULL_DOMAIN_ID)
                return pages.after_marker(
                    self.db, hints, PROJECTS, domains
                ), False
        return pages.candidates(self.db, hints, PROJECTS, BY_DOMAIN, LIST)

    def _of_domain(self, domain_id: str) -> list[Project]:
        return PROJECTS.entity.find_by(self.db, BY_DOMAIN, domain_id)

    def _children(self, project_id: str) -> list[Project]:
        """Return the children of a project or a domain."""
        return self._below([project_id]) + [
            project
            for project in self._of_domain(project_id)
            if project['parent_id'] == project_id
        ]

    def _below(self, parent_ids: Collection[str]) -> list[Project]:
        """Return the children of some projects, not those of domains."""
        ids = BY_PARENT.ids_of_some(self.db, parent_ids)
        parents = set(parent_ids)
        return [
            project
            for project in PROJECTS.entity.find_all(self.db, ids)
            if project['parent_id'] in parents
        ]

    def _levels(self, project_id: str) -> Iterator[list[Project]]:
        """Yield the levels of a tree, below its root."""
        in_domain = collections.defaultdict(list)
        for project in self._of_domain(project_id):
            in_domain[project['parent_id']].append(project)
        level = [project_id]
        while level:
            # What is in a domain is known at once; of a project each level
            # is one round trip.
            below = (
                [child for each in level for child in in_domain[each]]
                if in_domain
                else self._below(level)
            )
            if below:
                yield below
            level = [project['id'] for project in below]

    def _inside(self, project_id: str) -> Iterator[Project]:
        """Yield the children of a project and what is in it as a domain.

        Some at a time: to find one is enough for most.
        """
        yield from self._below([project_id])
        ids = BY_DOMAIN.ids_after(self.db, project_id, None, 1)
        while some := list(itertools.islice(ids, 16)):
            for project in PROJECTS.entity.find_all(self.db, some):
                if project['domain_id'] == project_id:
                    yield project

    def _delete(self, project_id: str) -> bool:
        """Delete a project; return False if others changed it meanwhile.

        :raises keystone.exception.ForbiddenNotSecurity: if it has children.
        """
        # In microseconds, so it identifies this deletion.
        mine = clock.utcnow()
        marked = PROJECTS.entity.change(
            self.db, project_id, {'closed_at': mine}
        )
        if marked is None:
            raise exception.ProjectNotFound(project_id=project_id)
        if any(self._inside(project_id)):
            self._cancel_deletion(project_id, mine)
            raise exception.ForbiddenNotSecurity(
                _(
                    'Cannot delete the project %s since it is not a leaf in'
                    ' the hierarchy. Use the cascade option if you want to'
                    ' delete a whole subtree.'
                )
                % project_id
            )
        gone = PROJECTS.remove(
            self.db,
            project_id,
            provided=lambda now: now['closed_at'] == mine,
        )
        return gone is not None

    def _cancel_deletion(
        self, project_id: str, closed_at: datetime.datetime
    ) -> Project | None:
        """End a deletion in progress, if it began at this time.

        Return what the project is now, None if it is gone.
        """
        return PROJECTS.entity.change(
            self.db,
            project_id,
            lambda now: (
                {'closed_at': None} if now['closed_at'] == closed_at else {}
            ),
        )

    def _check_above(self, project: Project) -> None:
        """Check that the parent and the domain of a new project are there.

        :raises keystone.exception.ProjectNotFound: or ``DomainNotFound``.
        :raises keystone.exception.Conflict: if one is being deleted.
        """
        for name in ('parent_id', 'domain_id'):
            above = project[name]
            if above in (None, NULL_DOMAIN_ID):
                continue
            # A serial read sees a deletion in progress.
            found = PROJECTS.entity.find(
                self.db, above, PROJECTS.entity.settle
            )
            closed_at = found and found['closed_at']
            if closed_at and clock.utcnow() - closed_at >= CLOSED:
                # Unless it was deleted, or closed again, just before.
                found = self._cancel_deletion(above, closed_at)
            if found is None:
                if name == 'domain_id':
                    raise exception.DomainNotFound(domain_id=above)
                raise exception.ProjectNotFound(project_id=above)
            if found['closed_at'] is not None:
                raise exception.Conflict(
                    type='project',
                    details=_('%s is being deleted') % above,
                )

    def _with_any(self, tags: Iterable[str]) -> list[str]:
        """Return the ids of the projects that have one of some tags."""
        return list(
            dict.fromkeys(
                project['id']
                for tag in tags
                for project in PROJECTS.entity.find_by(self.db, BY_TAG, tag)
            )
        )

    def _with_all(self, tags: Collection[str]) -> list[str]:
        """Return the ids of the projects that have all of some tags."""
        wanted = set(tags)
        return [
            project['id']
            for project in PROJECTS.entity.find_by(
                self.db, BY_TAG, min(wanted)
            )
            if wanted <= set(project['tags'])
        ]

    def _without(
        self, excluded: Collection[str], chosen: Collection[str]
    ) -> list[str]:
        """Return the ids, among those chosen or else all, but for some."""
        ids = chosen or [project['id'] for project in self._all()]
        return [each for each in dict.fromkeys(ids) if each not in excluded]


def _log_circle(project_id: str) -> None:
    LOG.error(
        'Circular reference or a repeated entry found in projects hierarchy'
        ' - %(project_id)s.',
        {'project_id': project_id},
    )


def _children_first(found: Mapping[str, Project]) -> Iterable[str]:
    """Return the ids of some projects, each before its parent's."""
    graph = graphlib.TopologicalSorter(dict.fromkeys(found, ()))
    for project in found.values():
        if project['parent_id'] in found:
            graph.add(project['parent_id'], project['id'])
    return graph.static_order()


def _has_ancestors(
    project_id: str, count: int, parents: Mapping[str, str | None]
) -> bool:
    """Return whether a project has at least so many ancestors."""
    above: str | None = project_id
    for _level in range(count):
        above = parents.get(above) if above else None
        if above not in parents:
            return False
    return True


def _check_tags(project_id: str, values: Mapping[str, Any]) -> None:
    # In SQL a project and a tag are a key.
    tags = values.get('tags') or ()
    if len(set(tags)) < len(tags):
        raise NameTaken(project_id)
