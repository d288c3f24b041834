# SPDX-License-Identifier: Apache-2.0
"""Faults that are planted in the package, which the checker must find.

A bed that is up is served from a copy of the checkout in which a guard is
taken out, as ``tools/mutations`` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.regions.bed import Bed
from lab.regions.region import KEYSTONE

from tests import mutations
from tests.mutation import Mutation
from tests.regions import clients, nemesis


@dataclasses.dataclass(frozen=True)
class Plant:
    """A fault of the package, and what brings it to light.

    :ivar mutations: what is changed in the package.
    :ivar operations: how often each kind is chosen.
    :ivar layout: of the bed.
    """

    name: str
    mutations: tuple[Mutation, ...]
    operations: clients.Weights
    faults: nemesis.Weights
    layout: str = 'three'


def _guard(name: str) -> Mutation:
    """Return a guard of those that ``tools/mutations`` takes out."""
    (found,) = (x for x in mutations.MUTATIONS if x.guard == name)
    return found


def _other(guard: str, path: str, code: str, instead: str) -> Mutation:
    return Mutation(guard, path, code, instead, 'tests/regions')


#: Much about few names; about tokens; about roles.
_NAMES: clients.Weights = {
    'name.create': 6,
    'name.rename': 2,
    'name.change': 2,
    'name.delete': 3,
    'name.find': 1,
}
#: What a node that hangs can do late.
_LATE: clients.Weights = {
    'secret.pass': 4,
    'name.create': 1,
    'name.rename': 2,
    'name.delete': 1,
}
#: Deletions in one region of what another one changes.
_CHANGES: clients.Weights = {
    'name.create': 3,
    'name.change': 4,
    'name.delete': 3,
    'name.find': 1,
}
_TOKENS: clients.Weights = {
    'token.log_in': 3,
    'token.validate': 10,
    'token.revoke': 3,
}
#: A region's own changes drop what it remembers, so there are few.
_ROLES: clients.Weights = {
    'token.log_in': 6,
    'token.validate': 4,
    'grant.add': 0.2,
    'grant.remove': 0.2,
}

PLANTS = (
    Plant(
        'feed off',
        (
            _other(
                'servers follow the changes of others',
                'db/following.py',
                'if self._db.conf.cassandra.follow_changes:',
                'if False:',
            ),
        ),
        _TOKENS,
        {'slow': 1},
    ),
    Plant(
        'claim at LOCAL_SERIAL',
        (
            _other(
                'all regions agree on names',
                'db/consistency.py',
                "global_serial = self._options['global_serial_consistency']",
                "global_serial = 'LOCAL_SERIAL'",
            ),
        ),
        _NAMES,
        {'slow': 2, 'cut': 1},
    ),
    Plant(
        '`born` ignored',
        (
            _guard('an entity is what was born'),
            # What else tells ghost rows: of what Keystone changes, no change
            # writes all of it.
            _other(
                'an entity has all that it needs',
                'tables/entity_statements.py',
                'all(stored[name] is not None for name in required)',
                "stored['incarnation'] is not None",
            ),
        ),
        _CHANGES,
        {'cut': 1},
    ),
    Plant(
        'fence left out',
        (
            _guard('a creation whose outcome is unknown is fenced'),
            _guard('a change whose outcome is unknown is fenced'),
        ),
        _LATE,
        {'pause replica': 1},
        layout='three nodes',
    ),
    Plant(
        'cached roles kept',
        (
            _other(
                'roles that are remembered are dropped',
                'compat/caches.py',
                '        assignment.COMPUTED_ASSIGNMENTS_REGION,\n',
                '',
            ),
        ),
        _ROLES,
        {'slow': 1},
    ),
)


@contextlib.contextmanager
def planted(bed: Bed, plant: Plant) -> Iterator[None]:
    """Let the servers of a bed have a fault until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        mutations.copied(checkout)
        for each in plant.mutations:
            path = each.source(checkout)
            source = path.read_text('utf-8')
            assert source.count(each.code) == 1, each.guard
            path.write_text(source.replace(each.code, each.instead), 'utf-8')
        try:
            _serve(bed, folder)
            yield
        finally:
            _serve(bed, None)


def _serve(bed: Bed, checkout: str | None) -> None:
    """Serve the package of a checkout; None for this one."""
    for region in bed.regions:
        region.kill(KEYSTONE)
        environment = region.keystone.environment
        assert isinstance(environment, dict)
        environment.pop('PYTHONPATH', None)
        if checkout:
            environment['PYTHONPATH'] = checkout
    for region in bed.regions:
        bed.restart(region.number, KEYSTONE)
