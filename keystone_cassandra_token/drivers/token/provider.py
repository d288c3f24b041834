# SPDX-License-Identifier: Apache-2.0
"""``keystone.token.provider`` on Cassandra.

A token is an opaque id that nobody can guess; ``token`` holds its data under a
hash of the id, so nobody who reads the table can use a token.  One INSERT
with one TTL makes it, nothing updates or deletes it: a crash leaves a token
or none.

What another datacenter issued a moment ago, and is not yet here, is read
there.

Unlike a Fernet token its values are stored, so methods keep their order and
times their microseconds.
"""

from __future__ import annotations

from typing import Any

from keystone import exception
from keystone.common import utils
from keystone.i18n import _
from keystone.models.token_model import TokenModel
from keystone.token.providers import base
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock, escalation, metrics
from keystone_cassandra_token.db.cql import token_read, token_write
from keystone_cassandra_token.db.rows import Row, json_text, micros, text_list
from keystone_cassandra_token.drivers.base import Driver
from keystone_cassandra_token.drivers.token import seen
from keystone_cassandra_token.drivers.token.opaque_ids import OpaqueIds, hashed
from keystone_cassandra_token.revocation_ttl import RevocationTTL

#: Version of the id's format.
PREFIX = 'kc1_'
IDS = OpaqueIds(PREFIX)

TOKEN = Row(
    'id_hash',
    'user_id',
    'domain_id',
    'project_id',
    'trust_id',
    'identity_provider_id',
    'protocol_id',
    'access_token_id',
    'app_cred_id',
    'thumbprint',
    methods=text_list,
    audit_ids=text_list,
    system=json_text,
    federated_group_ids=json_text,
    issued_at=micros,
    expires_at=micros,
)

GET = token_read(f'SELECT {TOKEN} FROM token WHERE id_hash = :id_hash')
escalation.SOUGHT.add(GET)
INSERT = token_write(
    f'INSERT INTO token ({TOKEN}) VALUES ({TOKEN.markers})'
).expiring()


class Provider(Driver, base.Provider):
    """Opaque tokens in Cassandra."""

    def __init__(self) -> None:
        super().__init__()
        self._revocation_ttl = RevocationTTL(self.db)

    def validate_token(self, token_id: Any) -> tuple[Any, ...]:
        token = IDS.find(self.db, GET, TOKEN, token_id)
        metrics.count(metrics.TOKENS, 'found' if token else 'missing')
        if token is None:
            # Without the id, which Keystone's own message would quote.
            raise exception.TokenNotFound(_('Failed to validate token'))
        return (
            token['user_id'],
            token['methods'],
            token['audit_ids'],
            token['system'],
            token['domain_id'],
            token['project_id'],
            token['trust_id'],
            token['federated_group_ids'],
            token['identity_provider_id'],
            token['protocol_id'],
            token['access_token_id'],
            token['app_cred_id'],
            token['thumbprint'],
            utils.isotime(token['issued_at'], subsecond=True),
            utils.isotime(token['expires_at'], subsecond=True),
        )

    def generate_id_and_issued_at(self, token: TokenModel) -> tuple[str, str]:
        token_id = IDS.make(self.conf, self.db.sessions.get().local_dc)
        # In whole seconds, as revocations are: a token of the second in
        # which its user was revoked is revoked, as with Fernet.
        issued_at = clock.utcnow().replace(microsecond=0)
        expires_at = timeutils.parse_isotime(token.expires_at)
        ttl = clock.ttl_until(expires_at, self.conf.token.allow_expired_window)
        if ttl > 0:  # else nobody could fetch it any more
            self._revocation_ttl.ensure(
                ttl + self.conf.revoke.expiration_buffer
            )
            values = {
                'id_hash': hashed(self.conf, token_id),
                'user_id': token.user_id,
                'methods': token.methods,
                'audit_ids': token.audit_ids,
                'system': token.system,
                'domain_id': token.domain_id,
                'project_id': token.project_id,
                'trust_id': token.trust_id,
                'federated_group_ids': token.federated_groups,
                'identity_provider_id': token.identity_provider_id,
                'protocol_id': token.protocol_id,
                'access_token_id': token.access_token_id,
                'app_cred_id': token.application_credential_id,
                'thumbprint': token.oauth2_thumbprint,
                'issued_at': issued_at,
                'expires_at': expires_at,
            }
            noted = seen.by(self.db, token, issued_at)
            sent = self.db.run_async(INSERT, ttl=ttl, **TOKEN.dump(values))
            if revocations := noted.result():
                note = {'audit_id': token.audit_id, 'seen': revocations}
                self.db.run(seen.INSERT, ttl=ttl, **note)
            sent.result()
        metrics.count(metrics.TOKENS, 'issued')
        return token_id, utils.isotime(issued_at, subsecond=True)
