# SPDX-License-Identifier: Apache-2.0
"""Conflicts, told as Keystone's SQL drivers tell them.

The client is told what it gave itself.  The operator's log says which table
of claims refused it and who has the name; the client may not be allowed to
see that one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from keystone import exception
from keystone.i18n import _
from oslo_log import log

from keystone_cassandra_token.tables.unique import NameTaken

LOG = log.getLogger(__name__)


def duplicate(
    kind: str, field: str = '', value: object = None
) -> exception.Conflict:
    """Return what to raise for an entity that is there already.

    :param kind: what Keystone calls such an entity.
    :param field: ``name`` or ``ID``, if one of them is told.
    """
    details = _('Duplicate entry')
    if field:
        details = _('Duplicate entry found with %(field)s %(name)s') % {
            'field': field,
            'name': value,
        }
    return exception.Conflict(type=kind, details=details)


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Log a :class:`NameTaken` that is turned into a conflict."""
    try:
        yield
    except NameTaken as taken:
        if taken.table:
            LOG.info(
                'Conflict: a claim in table %s belongs to %s.',
                taken.table,
                taken.owner,
            )
        raise


@contextlib.contextmanager
def conflict(
    kind: str, given: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Tell Keystone that a name or an id is taken.

    :param kind: as for :func:`duplicate`.
    :param given: the entity as it was given to the driver, where its name, or
        else its id, is told.
    :raises keystone.exception.Conflict: for :class:`NameTaken` in the body.
    """
    try:
        with logged():
            yield
    except NameTaken:
        if given is None:
            raise duplicate(kind) from None
        name = given.get('name', given.get('id'))
        raise duplicate(kind, 'name', name) from None
