# SPDX-License-Identifier: Apache-2.0
"""Keystone's caches: what a change elsewhere takes from them.

Keystone drops what it remembers by an id that is a part of each key of a cache
region, and keeps that id in the cache: who changes it does so for all
processes that share the cache.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keystone.common import cache, provider_api
from oslo_config import cfg
from oslo_context import context
from oslo_serialization import jsonutils

from keystone_cassandra_token.conf.options import DRIVER
from keystone_cassandra_token.db import changes
from keystone_cassandra_token.db.caches import Mark

#: Remembers nothing beyond a request.
_NULL = 'dogpile.cache.null'

_MARK = 'keystone_cassandra_token followed '


#: By section with ``caching`` of its own: whose driver writes what ends the
#: things remembered.  A token is ended by a revocation, a receipt by its life
#: alone; what Keystone remembers of role assignments goes by ``[role]``.
SECTIONS = {
    'token': 'revoke',
    'revoke': 'revoke',
    'role': 'assignment',
    'identity': 'identity',
    'resource': 'resource',
    'domain_config': 'domain_config',
    'catalog': 'catalog',
    'federation': 'federation',
    'credential': 'credential',
    'application_credential': 'application_credential',
    'unified_limit': 'unified_limit',
}


def is_cached(conf: cfg.ConfigOpts) -> bool:
    """Return whether anything is remembered beyond a request."""
    return bool(conf.cache.enabled and conf.cache.backend != _NULL)


def lifetimes(conf: cfg.ConfigOpts) -> dict[str, int]:
    """Return for how many seconds what can end is remembered, by section."""
    found: dict[str, int] = {}
    if not is_cached(conf):
        return found
    for section in SECTIONS:
        # The list of all events, which a check does not use here.
        if section == 'revoke' and conf.revoke.driver == DRIVER:
            continue
        if conf[section].caching:
            # That of federation has none of its own.
            own = 'cache_time' in conf[section] and conf[section].cache_time
            found[section] = int(own or conf.cache.expiration_time)
    return found


class KeystoneCaches:
    """As :class:`~..db.caches.Caches` says.

    :param conf: Keystone's configuration.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf

    def are_used(self) -> bool:
        """Return whether anything is remembered, and may be dropped."""
        return bool(
            is_cached(self._conf)
            and cache.CACHE_INVALIDATION_REGION.is_configured
        )

    def begin(self) -> None:
        """Forget what Keystone keeps of the cache for one request."""
        context.RequestContext(overwrite=True)

    def mark(self, datacenter: str) -> Mark | None:
        """Return the mark of a datacenter."""
        found = cache.CACHE_INVALIDATION_REGION.get(_MARK + datacenter)
        if not found:
            return None
        beat, gap, *done = jsonutils.loads(found)
        return Mark(beat, frozenset(map(uuid.UUID, done)), gap)

    def set_mark(self, datacenter: str, mark: Mark) -> None:
        """Keep a mark."""
        ids = (each.hex for each in mark.done)
        text = jsonutils.dumps([mark.beat, mark.gap, *ids])
        cache.CACHE_INVALIDATION_REGION.set(_MARK + datacenter, text)

    def drop(self, told: Mapping[str, Sequence[changes.Key]]) -> None:
        """Drop what could be remembered of these keys of tables.

        What users change of their own is dropped by itself, as Keystone does:
        nobody can keep the caches of other regions empty by it.
        """
        if told.keys() - _BY_KEY.keys() - {changes.REVOCATION}:
            return self.drop_all()
        if changes.REVOCATION in told:
            _invalidate(_of_tokens())
        for table in told.keys() & _BY_KEY.keys():
            for key in told[table]:
                _BY_KEY[table](key)

    def drop_all(self) -> None:
        """Drop all."""
        _invalidate(_of_tokens() + _of_all_else())


def _drop_application_credential(key: changes.Key) -> None:
    manager = provider_api.ProviderAPIs.application_credential_api
    manager.get_application_credential.invalidate(manager, key['id'])


def _drop_access_rule(key: changes.Key) -> None:
    manager = provider_api.ProviderAPIs.application_credential_api
    manager.get_access_rule.invalidate(manager, key['id'], key['user_id'])


def _drop_credential(key: changes.Key) -> None:
    manager = provider_api.ProviderAPIs.credential_api
    manager._get_credential.invalidate(manager, key['id'])
    for kind in (key['type'], None):
        manager._list_credentials_for_user.invalidate(
            manager, key['user_id'], kind
        )


#: By table: what drops one key of what Keystone remembers.
_BY_KEY = {
    'application_credential': _drop_application_credential,
    'access_rule': _drop_access_rule,
    'credential': _drop_credential,
}


def _invalidate(regions: Collection[Any]) -> None:
    for region in regions:
        if region.is_configured:
            region.invalidate()


# Not imported with this module: Keystone imports drivers in the middle of its
# own imports.


@functools.cache
def _of_tokens() -> tuple[Any, ...]:
    from keystone.revoke import core as revoke
    from keystone.token import provider

    return provider.TOKENS_REGION, revoke.REVOKE_REGION


@functools.cache
def _of_all_else() -> tuple[Any, ...]:
    from keystone.assignment import core as assignment
    from keystone.catalog import core as catalog
    from keystone.identity import core as identity
    from keystone.receipt import provider as receipts

    return (
        cache.CACHE_REGION,
        assignment.COMPUTED_ASSIGNMENTS_REGION,
        catalog.COMPUTED_CATALOG_REGION,
        identity.ID_MAPPING_REGION,
        receipts.RECEIPTS_REGION,
    )
