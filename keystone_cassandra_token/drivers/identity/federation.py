# SPDX-License-Identifier: Apache-2.0
"""``keystone.federation`` on Cassandra.

``identity_provider``, ``mapping`` and ``service_provider`` are the source of
truth, each kept together in one partition: there are hundreds.  An identity
provider's row has its protocols, so they come and go with it, and its remote
ids, of which ``remote_id_claim`` keeps each at one provider and finds it.
``tables.named`` says in which order these are written,
and what a crash leaves.

The deletion of a provider or a protocol removes its federated identities, as
``drivers.identity.federated_users`` says: from the users first, then the
provider or protocol, then again from users who have logged in meanwhile.
After a crash the same call does the rest.

Unlike with the SQL driver a user whose first log-in is in progress when its
provider is deleted may stay, and users who have lost all their names in
another way stay.  An empty remote id finds no provider, and several providers
can have it.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from keystone import exception
from keystone.common.driver_hints import Hints
from keystone.federation.backends import base
from keystone.i18n import _

from keystone_cassandra_token.compat import extras, lengths, listing
from keystone_cassandra_token.compat.conflicts import duplicate, logged
from keystone_cassandra_token.db.rows import (
    Row,
    boolean,
    json_text,
    number,
    text,
    text_list,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.identity import federated_users
from keystone_cassandra_token.tables.derived import DerivedTables
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.index import Indexes
from keystone_cassandra_token.tables.named import STAMPS, Named
from keystone_cassandra_token.tables.unique import Claims, ClaimSpec, NameTaken

Stored = dict[str, Any]

IDP = Row(
    id=text(64),
    domain_id=text(64, required=True),
    enabled=boolean(required=True),
    description=text,
    remote_ids=text_list,
    authorization_ttl=number,
)
_IDP_CHANGES = ('enabled', 'description', 'authorization_ttl')
REMOTE_ID = Row(remote_id=text(255))
#: What is in ``protocols``, by id.
_PROTOCOL = Row(
    mapping_id=text(64, required=True), remote_id_attribute=text(64)
)
PROTOCOL = Row(id=text(64), idp_id=text(64)) | _PROTOCOL
MAPPING = Row(
    id=text(64), rules=json_text, schema_version=text(5, required=True)
)
SP = Row(
    id=text(64),
    enabled=boolean(required=True),
    description=text,
    auth_url=text(256, required=True),
    sp_url=text(256, required=True),
    relay_state_prefix=text(256, required=True),
)


def _remote_ids(_db: Store, idp: Mapping[str, Any]) -> list[Any]:
    # An empty one names nobody, and cannot be a key.
    return [
        {'remote_id': remote_id}
        for remote_id in idp['remote_ids'] or ()
        if remote_id
    ]


IDPS = Named(
    Entity(
        'identity_provider',
        IDP | STAMPS | Row(protocols=json_text),
        Indexes(),
        guarded=['remote_ids', 'protocols'],
        told=[],
        everywhere=True,
        single_partition=True,
        ids_come_back=True,
        sought_elsewhere=True,
    ),
    ClaimSpec(Claims('remote_id_claim', 'remote_id'), _remote_ids),
)
IDP_DERIVED = DerivedTables.of(IDPS, 'remote_ids')
MAPPINGS = Entity(
    'mapping',
    MAPPING,
    Indexes(),
    told=[],
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
)
SPS = Entity(
    'service_provider',
    SP,
    Indexes(),
    everywhere=True,
    sought_elsewhere=True,
    single_partition=True,
)


class Federation(Driver, base.FederationDriverBase):
    """Identity providers, protocols, mappings, service providers."""

    def create_idp(self, idp_id: str, idp: Mapping[str, Any]) -> Stored:
        given = {**dict.fromkeys(IDP.required), **idp, 'id': idp_id}
        stored = IDPS.entity.new(
            extras.to_row(given, IDP, 'identity_provider')
            | {'remote_ids': _sorted(given), 'protocols': {}}
        )
        with _idp_conflict(stored):
            IDPS.create(self.db, stored)
        return _idp_to_ref(stored) | _in_order(given)

    def delete_idp(self, idp_id: str) -> None:
        self._check_reachable(idp_id)
        # Also if it is gone: a server may have died during the deletion.
        federated_users.forget(self.db, idp_id)
        if IDPS.remove(self.db, idp_id) is None:
            raise exception.IdentityProviderNotFound(idp_id=idp_id)
        federated_users.forget(self.db, idp_id)

    def get_idp(self, idp_id: str) -> Stored:
        return _idp_to_ref(self._idp(idp_id))

    def get_idp_from_remote_id(self, remote_id: str) -> Stored:
        idp = remote_id and IDPS.find_anywhere(
            self.db, {'remote_id': remote_id}
        )
        if not idp:
            raise exception.IdentityProviderNotFound(idp_id=remote_id)
        return {'idp_id': idp['id'], 'remote_id': remote_id}

    def update_idp(self, idp_id: str, idp: Mapping[str, Any]) -> Stored:
        def changes(_now: Stored) -> Stored:
            found = {name: idp[name] for name in _IDP_CHANGES if name in idp}
            lengths.check(found, IDP, 'identity_provider')
            if 'remote_ids' in idp:
                found['remote_ids'] = _sorted(idp)
            return found

        with _idp_conflict({**idp, 'id': idp_id}):
            changed = IDPS.change(self.db, idp_id, changes)
        if changed is None:
            raise exception.IdentityProviderNotFound(idp_id=idp_id)
        return _idp_to_ref(changed) | _in_order(idp)

    def create_protocol(
        self, idp_id: str, protocol_id: str, protocol: Mapping[str, Any]
    ) -> Stored:
        new = {name: protocol.get(name) for name in _PROTOCOL.columns}
        made = {**new, 'id': protocol_id, 'idp_id': idp_id}

        def added(protocols: Stored) -> Stored:
            lengths.check(made, PROTOCOL, 'federation_protocol')
            if protocol_id in protocols:
                raise duplicate('federation_protocol', 'ID', protocol_id)
            return {**protocols, protocol_id: new}

        idp = self._change_protocols(idp_id, added)
        if idp is None:
            raise exception.IdentityProviderNotFound(idp_id=idp_id)
        return _protocol_to_ref(idp, protocol_id)

    def update_protocol(
        self, idp_id: str, protocol_id: str, protocol: Mapping[str, Any]
    ) -> Stored:
        def changed(protocols: Stored) -> Stored:
            if protocol_id not in protocols:
                raise _no_protocol(idp_id, protocol_id)
            lengths.check(protocol, PROTOCOL, 'federation_protocol')
            changes = {
                n: protocol[n] for n in _PROTOCOL.columns if n in protocol
            }
            new = {**protocols[protocol_id], **changes}
            return {**protocols, protocol_id: new}

        idp = self._change_protocols(idp_id, changed)
        if idp is None:
            raise _no_protocol(idp_id, protocol_id)
        return _protocol_to_ref(idp, protocol_id)

    def get_protocol(self, idp_id: str, protocol_id: str) -> Stored:
        idp = IDPS.entity.find_anywhere(self.db, idp_id)
        if idp is None or protocol_id not in idp['protocols']:
            raise _no_protocol(idp_id, protocol_id)
        return _protocol_to_ref(idp, protocol_id)

    def list_protocols(self, idp_id: str) -> list[Stored]:
        idp = IDPS.entity.find(self.db, idp_id)
        if idp is None:
            return []
        return [_protocol_to_ref(idp, each) for each in idp['protocols']]

    def delete_protocol(self, idp_id: str, protocol_id: str) -> None:
        self._check_reachable(idp_id)
        # Also if it is gone, as for a provider.
        federated_users.forget(self.db, idp_id, protocol_id)

        def removed(protocols: Stored) -> Stored:
            if protocol_id not in protocols:
                raise _no_protocol(idp_id, protocol_id)
            return {
                name: value
                for name, value in protocols.items()
                if name != protocol_id
            }

        if self._change_protocols(idp_id, removed) is None:
            raise _no_protocol(idp_id, protocol_id)
        federated_users.forget(self.db, idp_id, protocol_id)

    def create_mapping(
        self, mapping_id: str, mapping: Mapping[str, Any]
    ) -> Stored:
        stored = MAPPINGS.new(
            {
                'id': mapping_id,
                'rules': mapping.get('rules'),
                'schema_version': mapping.get('schema_version') or '1.0',
            }
        )
        lengths.check(stored, MAPPING, 'mapping')
        if not MAPPINGS.create(self.db, stored):
            raise duplicate('mapping', 'ID', mapping_id)
        return _mapping_to_ref(stored)

    def delete_mapping(self, mapping_id: str) -> None:
        if not MAPPINGS.remove(self.db, mapping_id):
            raise exception.MappingNotFound(mapping_id=mapping_id)

    def update_mapping(
        self, mapping_id: str, mapping: Mapping[str, Any]
    ) -> Stored:
        # Rules are replaced, also by none, as with SQL.
        changes = {'rules': mapping.get('rules')}
        if mapping.get('schema_version'):
            changes['schema_version'] = mapping['schema_version']
        changed = MAPPINGS.change(
            self.db, mapping_id, _checked(changes, MAPPING, 'mapping')
        )
        if changed is None:
            raise exception.MappingNotFound(mapping_id=mapping_id)
        return _mapping_to_ref(changed)

    def list_mappings(self) -> list[Stored]:
        return list(map(_mapping_to_ref, MAPPINGS.all(self.db)))

    def get_mapping(self, mapping_id: str) -> Stored:
        mapping = MAPPINGS.find_anywhere(self.db, mapping_id)
        if mapping is None:
            raise exception.MappingNotFound(mapping_id=mapping_id)
        return _mapping_to_ref(mapping)

    def get_mapping_from_idp_and_protocol(
        self, idp_id: str, protocol_id: str
    ) -> Stored:
        protocol = self.get_protocol(idp_id, protocol_id)
        return self.get_mapping(protocol['mapping_id'])

    def create_sp(self, sp_id: str, sp: Mapping[str, Any]) -> Stored:
        given = {**dict.fromkeys(SP.required), **sp, 'id': sp_id}
        stored = SPS.new(extras.to_row(given, SP, 'service_provider'))
        if not SPS.create(self.db, stored):
            raise duplicate('service_provider', 'ID', sp_id)
        return _sp_to_ref(stored)

    def delete_sp(self, sp_id: str) -> None:
        if not SPS.remove(self.db, sp_id):
            raise exception.ServiceProviderNotFound(sp_id=sp_id)

    def get_sp(self, sp_id: str) -> Stored:
        sp = SPS.find_anywhere(self.db, sp_id)
        if sp is None:
            raise exception.ServiceProviderNotFound(sp_id=sp_id)
        return _sp_to_ref(sp)

    def update_sp(self, sp_id: str, sp: Mapping[str, Any]) -> Stored:
        changes = {
            name: sp[name]
            for name in SP.attributes
            if name in sp and name != 'id'
        }
        changed = SPS.change(
            self.db, sp_id, _checked(changes, SP, 'service_provider')
        )
        if changed is None:
            raise exception.ServiceProviderNotFound(sp_id=sp_id)
        return _sp_to_ref(changed)

    def get_enabled_service_providers(self) -> list[Any]:
        return [
            types.SimpleNamespace(**_sp_to_ref(sp))
            for sp in SPS.all(self.db)
            if sp['enabled']
        ]

    def list_idps(self, hints: Hints | None = None) -> list[Stored]:
        return _listed(
            map(_idp_to_ref, IDPS.entity.all(self.db)),
            hints,
            [name for name in IDP.attributes if name != 'remote_ids'],
        )

    def list_sps(self, hints: Hints | None = None) -> list[Stored]:
        return _listed(map(_sp_to_ref, SPS.all(self.db)), hints, SP.attributes)

    def _check_reachable(self, idp_id: str) -> None:
        """Check that all datacenters can agree, before anything is removed.

        :raises StoreUnavailable: if they cannot.
        """
        IDPS.entity.fence.find(self.db, idp_id)

    def _idp(self, idp_id: str) -> Stored:
        idp = IDPS.entity.find_anywhere(self.db, idp_id)
        if idp is None:
            raise exception.IdentityProviderNotFound(idp_id=idp_id)
        return idp

    def _change_protocols(
        self, idp_id: str, changes: Callable[[Stored], Stored]
    ) -> Stored | None:
        """Change a provider's protocols; return it, None if there is none."""
        return IDPS.entity.change(
            self.db,
            idp_id,
            lambda now: {'protocols': changes(now['protocols'])},
        )


def _checked(
    changes: Stored, row: Row, kind: str
) -> Callable[[Stored], Stored]:
    """Return changes that are checked once there is what they change.

    As with SQL.
    """

    def checked(_now: Stored) -> Stored:
        lengths.check(changes, row, kind)
        return changes

    return checked


def _sorted(idp: Mapping[str, Any]) -> list[str]:
    """Return the remote ids that a provider names."""
    remote_ids = sorted(idp.get('remote_ids') or ())
    for remote_id in remote_ids:
        lengths.check({'remote_id': remote_id}, REMOTE_ID, 'identity_provider')
    if len(set(remote_ids)) < len(remote_ids):
        raise _duplicate_remote_id(remote_ids)
    return remote_ids


def _in_order(given: Mapping[str, Any]) -> Stored:
    """Return the remote ids that were given, in their order.

    The SQL driver answers so, and shows them sorted when it reads them.
    """
    if 'remote_ids' not in given:
        return {}
    return {'remote_ids': list(given['remote_ids'] or ())}


@contextlib.contextmanager
def _idp_conflict(idp: Mapping[str, Any]) -> Iterator[None]:
    """Tell Keystone that an id or a remote id is taken."""
    try:
        with logged():
            yield
    except NameTaken as taken:
        if taken.owner == idp['id']:
            raise duplicate('identity_provider', 'ID', idp['id']) from None
        raise _duplicate_remote_id(idp['remote_ids']) from None


def _duplicate_remote_id(remote_ids: list[str]) -> exception.Conflict:
    return exception.Conflict(
        type='identity_provider',
        details=_('Duplicate remote ID: %s') % ', '.join(remote_ids),
    )


def _no_protocol(
    idp_id: str, protocol_id: str
) -> exception.FederatedProtocolNotFound:
    return exception.FederatedProtocolNotFound(
        protocol_id=protocol_id, idp_id=idp_id
    )


def _idp_to_ref(idp: Mapping[str, Any]) -> Stored:
    """Return an identity provider as the SQL driver returns it."""
    return extras.to_ref(idp, IDP)


def _protocol_to_ref(idp: Mapping[str, Any], protocol_id: str) -> Stored:
    return {
        'id': protocol_id,
        'idp_id': idp['id'],
        **idp['protocols'][protocol_id],
    }


def _mapping_to_ref(mapping: Mapping[str, Any]) -> Stored:
    return extras.to_ref(mapping, MAPPING)


def _sp_to_ref(sp: Mapping[str, Any]) -> Stored:
    return extras.to_ref(sp, SP)


def _listed(
    found: Iterator[Stored], hints: Hints | None, attributes: Collection[str]
) -> list[Stored]:
    return listing.limit(
        # None of them is a name.
        listing.filter_by_hints(found, hints, attributes, 'sensitive'),
        hints,
    )
