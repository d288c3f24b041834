# SPDX-License-Identifier: Apache-2.0
"""``keystone.identity.shadow_users`` on Cassandra.

Shadow users are rows of ``user``, as ``drivers.identity.users``
says.  ``federated_claim`` finds them by federated identity (idp_id,
protocol_id, unique_id), ``nonlocal_claim`` by the name in another backend.
Their ids are computed from these, so two datacenters that create one at the
same time compute the same id.

On create: claim, index rows, user.  A crash leaves at most a claim that can be
taken over after a minute.

Unlike with the SQL driver an expired membership is removed by its TTL, a day
later; and a local user who is deleted while logging in does not come back as
a non-local one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from keystone import exception
from keystone.common import provider_api
from keystone.common.driver_hints import Hints
from keystone.identity.shadow_backends import base

from keystone_cassandra_token.compat import lengths, listing
from keystone_cassandra_token.compat.conflicts import conflict
from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.cql import scan
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.identity import (
    federated_users,
    identities,
    lockout,
    memberships,
    users,
)
from keystone_cassandra_token.drivers.identity.identities import FEDERATED
from keystone_cassandra_token.drivers.identity.users import (
    BY_DISPLAY_NAME,
    BY_IDP,
    FEDERATED_NAMES,
    USERS,
)
from keystone_cassandra_token.tables.entity_reads import AT_ONCE
from keystone_cassandra_token.tables.unique import NameTaken

User = dict[str, Any]

#: Who is yet to have an identity.
_NOBODY: User = {'federated': None, 'identities': None}

# Keystone lists federated users for an administrator.
LIST = scan(f'SELECT {USERS.entity.row} FROM user')


class ShadowUsers(Driver, base.ShadowUsersDriverBase):
    """Federated and non-local users in Cassandra."""

    def create_federated_object(self, fed_dict: Mapping[str, Any]) -> None:
        identity = users.federated(fed_dict)
        user_id = fed_dict['user_id']
        key = identities.key(identity)

        def added(user: User) -> dict[str, Any]:
            if _has(user, key):
                raise NameTaken(user_id, FEDERATED_NAMES.claims.table)
            return identities.setting(user, [*identities.of(user), identity])

        with conflict('federated_user'):
            # As with SQL before it is looked whether the user is there.
            USERS.check_free(self.db, key, FEDERATED_NAMES)
            if USERS.change(self.db, user_id, added) is None:
                raise exception.UserNotFound(user_id=user_id)

    def create_federated_user(
        self,
        domain_id: str,
        federated_dict: Mapping[str, Any],
        email: str | None = None,
    ) -> User:
        ids = provider_api.ProviderAPIs.id_generator_api
        user_id = ids.generate_public_ID(
            {
                'domain_id': domain_id,
                'local_id': federated_dict['unique_id'],
                'entity_type': 'user',
            }
        )
        identity = users.federated(federated_dict)
        given = {'domain_id': domain_id, 'enabled': True}
        if email:
            given['email'] = email
        with conflict('federated_user'):
            return self._create(
                user_id, given, **identities.setting(_NOBODY, [identity])
            )

    def delete_federated_object(self, user_id: str) -> None:
        federated_users.forget_user(self.db, user_id)

    def get_federated_objects(self, user_id: str) -> list[dict[str, Any]]:
        user = USERS.entity.find(self.db, user_id)
        found: list[dict[str, Any]] = base.federated_objects_to_list(
            identities.of(user) if user else []
        )
        return found

    def get_federated_user(
        self, idp_id: str, protocol_id: str, unique_id: str
    ) -> User:
        key = {
            'idp_id': idp_id,
            'protocol_id': protocol_id,
            'unique_id': unique_id,
        }
        user = USERS.find_anywhere(self.db, key, FEDERATED_NAMES)
        return users.to_ref(_known(user, key))

    def update_federated_user_display_name(
        self,
        idp_id: str,
        protocol_id: str,
        unique_id: str,
        display_name: str,
    ) -> None:
        key = {
            'idp_id': idp_id,
            'protocol_id': protocol_id,
            'unique_id': unique_id,
        }
        with contextlib.suppress(exception.UserNotFound):
            user = self._federated(key)
            shown = users.federated(key | {'display_name': display_name})
            if shown in identities.of(user):
                return  # nearly each log-in

            def renamed(now: User) -> dict[str, Any]:
                return identities.setting(
                    now,
                    [
                        shown if identities.key(each) == key else each
                        for each in identities.of(now)
                    ],
                )

            USERS.entity.change(self.db, user['id'], renamed)

    def get_user(self, user_id: str) -> User:
        return users.to_ref(users.get_anywhere(self.db, user_id))

    def create_nonlocal_user(self, user_dict: Mapping[str, Any]) -> User:
        if (
            isinstance(user_dict, users.AuthenticatedRef)
            and user_dict.is_local
        ):
            # Deleted while it logged in.  Keystone makes of this what it
            # answers to a wrong password.
            raise exception.PublicIDNotFound(id=user_dict['id'])
        lengths.check(user_dict, users.NAME, 'nonlocal_user')
        given = {
            name: value
            for name, value in user_dict.items()
            if name not in ('name', 'password')
        }
        with conflict('nonlocal_user'):
            return self._create(
                given['id'], given, nonlocal_name=user_dict['name']
            )

    def set_last_active_at(self, user_id: str) -> None:
        today = clock.utcnow().date()
        user = USERS.entity.find(self.db, user_id)
        if user is not None and user['last_active_on'] != today:
            USERS.entity.change(self.db, user_id, {'last_active_on': today})

    def list_federated_users_info(
        self, hints: Hints | None = None
    ) -> list[dict[str, Any]]:
        found = listing.filter_by_hints(
            (
                {**identity, 'user_id': user['id']}
                for user in self._all_federated()
                for identity in identities.of(user)
            ),
            hints,
            (*FEDERATED, 'user_id', 'display_name'),
            'sensitive',  # ids of identity providers
        )
        return listing.limit(found, hints)

    def get_federated_users(self, hints: Hints) -> list[User]:
        """Return the users with a federated identity that the hints want."""
        wanted = {
            entry['name']: entry
            for entry in hints.filters
            if entry['name'] in (*FEDERATED, 'name')
        }
        for entry in wanted.values():
            hints.filters.remove(entry)
        named = {'display_name': 'name'}

        def fits(identity: Mapping[str, Any]) -> bool:
            return all(
                identity[name] == wanted[named.get(name, name)]['value']
                for name in (*FEDERATED, 'display_name')
                if named.get(name, name) in wanted
            )

        values = {name: entry['value'] for name, entry in wanted.items()}
        passes = listing.predicate_from_hints(
            hints,
            ('id', 'domain_id', 'enabled', 'default_project_id'),
            self.conf.cassandra.name_comparison,
        )
        return listing.limit(
            [
                users.to_ref(user)
                for user in self._candidates(values)
                if any(map(fits, identities.of(user)))
                # As SQL: by what is stored, not by what is shown.
                and passes(users.filterable(user))
            ],
            hints,
        )

    def delete_user(self, user_id: str) -> None:
        """Delete a user with its names and memberships."""
        users.delete(self.db, user_id)

    def add_user_to_group_expires(self, user_id: str, group_id: str) -> bool:
        """Make or renew an expiring membership; return whether it is new."""
        user = USERS.entity.find(self.db, user_id)
        federated_as = identities.of(user) if user else []
        if not federated_as:
            raise exception.UserNotFound(user_id=user_id)
        known = [
            row
            for row in memberships.asserted(self.db, user_id)
            if row['group_id'] == group_id
        ]
        idp_id = (known or federated_as)[0]['idp_id']
        memberships.renew(self.db, user_id, group_id, idp_id)
        return not known

    def cleanup_stale_group_memberships(
        self, user_id: str, idp_id: str, current_group_ids: Collection[str]
    ) -> list[str]:
        """End the memberships that an identity provider asserts no more.

        :returns: the ids of those groups.
        """
        stale = [
            row
            for row in memberships.asserted(self.db, user_id)
            if row['idp_id'] == idp_id
            and row['group_id'] not in set(current_group_ids)
        ]
        for row in stale:
            memberships.remove_expiring(self.db, row)
        return [row['group_id'] for row in stale]

    def _federated(self, key: Mapping[str, Any]) -> User:
        """Return the user with a federated identity."""
        return _known(USERS.find(self.db, key, FEDERATED_NAMES), key)

    def _candidates(self, wanted: Mapping[str, Any]) -> Iterable[User]:
        """Return the users among which a list looks, as they are read.

        :param wanted: what is wanted of an identity, by attribute.
        """
        if all(name in wanted for name in FEDERATED):
            with contextlib.suppress(exception.UserNotFound):
                return [
                    self._federated({name: wanted[name] for name in FEDERATED})
                ]
            return []
        if wanted.get('name'):
            ids = BY_DISPLAY_NAME.ids(self.db, wanted['name'])
            return USERS.entity.find_all(self.db, ids)
        if wanted.get('idp_id'):
            return self._of_idp(wanted['idp_id'])
        return self._all_federated()

    def _of_idp(self, idp_id: str) -> Iterator[User]:
        ids = BY_IDP.ids_after(self.db, idp_id, None, AT_ONCE)
        while some := list(itertools.islice(ids, AT_ONCE)):
            yield from USERS.entity.find_all(self.db, some)

    def _all_federated(self) -> Iterator[User]:
        return (
            user
            for user in USERS.entity.scanned(self.db, LIST)
            if identities.of(user)
        )

    def _create(
        self,
        user_id: str,
        given: Mapping[str, Any],
        **own: Any,
    ) -> User:
        stored = USERS.entity.new(
            {
                'created_at': clock.utcnow(),
                'lock_epoch': lockout.new_epoch(),
                'federated': [],
                **users.to_row(given),
                'id': user_id,
                **own,
            }
        )
        # The rest of an interrupted deletion; the id is computed.
        memberships.remove_user(
            self.db,
            user_id,
            provided=lambda: USERS.entity.find(self.db, user_id) is None,
        )
        USERS.create(self.db, stored)
        return users.to_ref(stored)


def _known(user: User | None, key: Mapping[str, Any]) -> User:
    """Return the user of a federated identity, which must be there."""
    if user is None:
        raise exception.UserNotFound(user_id=key['unique_id'])
    return user


def _has(user: Mapping[str, Any], key: Mapping[str, Any]) -> bool:
    return any(identities.key(each) == key for each in identities.of(user))
