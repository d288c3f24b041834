# SPDX-License-Identifier: Apache-2.0
"""Guards of the package, each with a test that fails without it."""

from __future__ import annotations

from tests.mutation import Mutation

#: Of a world that is named behind it.
BETWEEN_REGIONS = 'tests/fault/test_between_regions.py --all-pairs -k'

GUARDS = (
    Mutation(
        'a claim is taken over behind a fence',
        'tables/unique.py',
        '        owners.fence(db, owner)\n'
        '        return owners.has(db, owner, key)\n',
        '        return False\n',
        'tests/contract/test_unique.py',
    ),
    Mutation(
        'the owner is looked at again behind the fence',
        'tables/unique.py',
        '        owners.fence(db, owner)\n'
        '        return owners.has(db, owner, key)\n',
        '        owners.fence(db, owner)\n        return False\n',
        'tests/contract/test_unique.py',
    ),
    Mutation(
        'a claim is freed on its own stamp',
        'tables/unique.py',
        "            ' IF owner = :owner AND stamp = :stamp'\n        )\n\n"
        '    def owner',
        "            ' IF owner = :owner AND stamp >= :stamp'\n        )\n\n"
        '    def owner',
        'tests/contract/test_unique.py tests/fault/test_users.py'
        ' -k "unique or pairs" --all-pairs',
    ),
    Mutation(
        'freeing a claim leaves a request its time',
        'tables/unique.py',
        '                GIVE_UP_WITHIN, db.conf',
        '                3600, db.conf',
        'tests/contract/test_unique.py',
    ),
    Mutation(
        'a claim of two attempts is not given up by one',
        'tables/named.py',
        '[each for each in made.values() if not each.shared]',
        'list(made.values())',
        'tests/fault/test_users.py -k "Groups and pairs" --all-pairs',
    ),
    Mutation(
        'a claim of two attempts outlives a deletion',
        'tables/named.py',
        '        elif not stamp.startswith(_SHARED):\n',
        '        else:\n            stamp = stamp.removeprefix(_SHARED)\n',
        'tests/contract/test_named.py',
    ),
    Mutation(
        'a claim is renewed before a fence is replaced',
        'tables/entity.py',
        '            new.update(renew(new))\n',
        '',
        'tests/fault/test_users.py -k TakeOver',
    ),
    Mutation(
        'a claim is renewed when a change is made again',
        'tables/named.py',
        '                else name.claims.renew(db, made)',
        '                else made',
        'tests/fault/test_users.py -k TakeOver',
    ),
    Mutation(
        'a creation whose outcome is unknown is fenced',
        'tables/fence.py',
        "            if self._put(db, new['id'], found):\n"
        '                return False',
        '            return False',
        'tests/fault/test_users.py -k late_writes --all-pairs',
    ),
    Mutation(
        'a change whose outcome is unknown is fenced',
        'tables/fence.py',
        "            if self._put(db, old['id'], found):\n"
        '                return False',
        '            return False',
        'tests/contract/test_named.py',
    ),
    Mutation(
        'an owner is fenced in each datacenter',
        'tables/fence.py',
        '            for store in stores:\n',
        '            for store in stores[:1]:\n',
        'tests/fault/test_datacenters.py -k fenced',
    ),
    Mutation(
        'an entity is what was born',
        'tables/entity_statements.py',
        "        stored['born'] is not None or clock.is_former",
        '        True or clock.is_former',
        'tests/contract/test_born.py',
    ),
    Mutation(
        'what decides who may do what is agreed on everywhere',
        'tables/entity_statements.py',
        '        if everywhere:\n',
        '        if False:\n',
        'tests/fault/test_datacenters.py -k TwoRegions',
    ),
    Mutation(
        'of two creations of one id no mixture is left',
        'tables/entity_statements.py',
        '        if seen is None and not self.ids_are_given:\n',
        '        if seen is None:\n',
        'tests/contract/test_born.py',
    ),
    Mutation(
        'a grant of two regions is unsettled as a whole',
        'drivers/assignment/grants.py',
        '    write_index(db, {**settled, **own}.values(), Step.UNSETTLED)\n',
        '    write_index(db, own.values(), Step.UNSETTLED)\n',
        'tests/contract/test_assignment.py',
    ),
    Mutation(
        'a grant of two regions is listed once',
        'drivers/assignment/grants.py',
        "        if not row['settled'] or rows_of[_key_of(row)] > 1\n",
        "        if not row['settled']\n",
        'tests/contract/test_assignment.py',
    ),
    Mutation(
        'a reset of a password is not undone elsewhere',
        'drivers/identity/passwords.py',
        '    if not reset:\n        return latest\n',
        '    return latest\n',
        'tests/contract/test_identity.py -k Resets',
    ),
    Mutation(
        'a change is refused once the password is reset',
        'drivers/identity/driver.py',
        '            if passwords.reset_id(user) != known:\n',
        '            if False:\n',
        'tests/contract/test_identity.py -k Resets',
    ),
    Mutation(
        'a membership that has expired does not count',
        'drivers/identity/memberships.py',
        "    return [row for row in found if row['expires_at'] > now]\n",
        '    return found\n',
        'tests/contract/test_identity.py -k has_expired',
    ),
    Mutation(
        'who refers to what may be deleted looks at it again',
        'tables/association.py',
        '        try:\n            check()\n',
        '        try:\n            pass\n',
        'tests/fault/test_roles.py -k made_while_its_role_goes',
    ),
    Mutation(
        'a group of endpoints is deleted before what projects have of it',
        'drivers/catalog/driver.py',
        '        gone = GROUPS.remove(self.db, endpoint_group_id)\n'
        '        # Also what a deletion that was cut short has left.\n'
        '        GROUPS_OF.remove_having(self.db, endpoint_group_id)\n',
        '        GROUPS_OF.remove_having(self.db, endpoint_group_id)\n'
        '        gone = GROUPS.remove(self.db, endpoint_group_id)\n',
        'tests/fault/test_catalogs.py -k is_being_deleted',
    ),
    Mutation(
        'no project has a group of endpoints that is gone',
        'drivers/catalog/driver.py',
        "            if pair['endpoint_group_id'] in there\n",
        '',
        'tests/fault/test_catalogs.py -k associations_of_what_is_gone',
    ),
    Mutation(
        'who adds an endpoint looks for its service again',
        'drivers/catalog/endpoints.py',
        '        return entity.fence.is_there(db, value)\n',
        '        return True\n',
        'tests/fault/test_catalogs.py -k EndpointRaces',
    ),
    Mutation(
        'an endpoint that went with its new service was moved',
        'drivers/catalog/endpoints.py',
        '        if undone is _Undone.DELETED:\n            return None\n',
        '        return None\n',
        'tests/fault/test_catalogs.py -k that_it_came_to',
    ),
    Mutation(
        'who deletes a service sees endpoints of all datacenters',
        'drivers/catalog/endpoints.py',
        'in ENDPOINTS.all_settled(db)',
        'in ENDPOINTS.all(db)',
        'tests/fault/test_catalogs.py -k where_all_datacenters_agree',
    ),
    Mutation(
        'who deletes a region sees endpoints of all datacenters',
        'drivers/catalog/driver.py',
        'ENDPOINTS.all_settled(self.db)',
        'ENDPOINTS.all(self.db)',
        'tests/fault/test_catalogs.py -k where_all_datacenters_agree',
    ),
    Mutation(
        'of two equal renames at once one is refused',
        'drivers/limit/driver.py',
        '                    raise NameTaken(registered_limit_id)\n',
        '                    pass\n',
        'tests/fault/test_unified_limits.py -k equal_renames',
    ),
    Mutation(
        'what is exchanged was authorized with the verifier that was compared',
        'drivers/oauth1.py',
        ' IF verifier = :verifier AND',
        ' IF request_secret != :verifier AND',
        'tests/fault/test_oauth1s.py -k verifier_alone',
    ),
    Mutation(
        'who exchanges what was authorized again is told of a conflict',
        'drivers/oauth1.py',
        '            if exchanged.row and ',
        '            if False and ',
        'tests/fault/test_oauth1s.py -k verifier_alone',
    ),
    Mutation(
        'a trust that has expired is not there',
        'drivers/trust.py',
        '(expires_at is not None and clock.utcnow() > expires_at)',
        'False',
        'tests/contract/test_trust.py',
    ),
    Mutation(
        'a server with another serial level is refused',
        'schema/version.py',
        '        if text is not None:\n            raise',
        '        if False:\n            raise',
        'tests/contract/test_schema.py -k another_level',
    ),
    Mutation(
        'a coordinator asks another replica soon',
        'schema/current.cql',
        "WITH comment = 'users by id; conditional writes only'\n"
        "    AND speculative_retry = '50ms'",
        "WITH comment = 'users by id; conditional writes only'",
        'tests/unit/test_schema_files.py',
    ),
    Mutation(
        'what is not idempotent is not sent twice',
        'db/connection.py',
        'query is not None and query.is_idempotent and retry_num == 0',
        'retry_num == 0',
        'tests/unit/test_session.py tests/fault/test_hang.py',
    ),
    Mutation(
        'a request forgets what it has read once it writes',
        'db/sender.py',
        '        if operation not in consistency.LEAVES_REMEMBERED:\n'
        '            remembered.forget()\n',
        '',
        'tests/contract/test_remembered.py',
    ),
    Mutation(
        'a request forgets what it has read once its helpers write',
        'db/parts.py',
        '            remembered.forget()\n',
        '            pass\n',
        'tests/contract/test_remembered.py',
    ),
    Mutation(
        'a read that was sent before a write is not remembered',
        'db/remembered.py',
        '        self._found = {}\n',
        '        self._found.clear()\n',
        'tests/unit/test_remembered.py',
    ),
    Mutation(
        'what an entity is found by is not written again',
        'tables/entity_statements.py',
        '            elif value != old[name]:\n',
        '            else:\n',
        'tests/contract/test_born.py',
    ),
    Mutation(
        'of two equal events the one of the later time counts',
        'drivers/token/revoke.py',
        "    ' USING TTL :ttl AND TIMESTAMP :issued_before'\n",
        "    ' USING TTL :ttl'\n",
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'an event of a token stops it whatever the clocks say',
        'drivers/token/events.py',
        'subject.startswith(_TIMELESS)',
        'False',
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'an event stops only what has all that it names',
        'drivers/token/revoke.py',
        'events.matches(row, values)',
        'True',
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'a check reads the events that name no subject',
        'drivers/token/events.py',
        '        OTHER,\n    ]',
        '    ]',
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'an event of a user stops tokens of its trusts',
        'drivers/token/events.py',
        "strings('user_id', 'trustor_id', 'trustee_id')",
        "strings('user_id')",
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'an event outlasts the longer tokens of another server',
        'drivers/token/revoke.py',
        '        if (longer := current.result()) > known:\n',
        '        if (longer := current.result()) > known and False:\n',
        f'{BETWEEN_REGIONS} LongerTokens',
    ),
    Mutation(
        'events outlast a longer token before it is issued',
        'drivers/token/provider.py',
        '            self._revocation_ttl.ensure(\n'
        '                ttl + self.conf.revoke.expiration_buffer\n'
        '            )\n',
        '',
        f'{BETWEEN_REGIONS} LongerTokens',
    ),
    Mutation(
        'an event that ends sooner does not replace one that lasts',
        'drivers/token/revoke.py',
        "events.keyed(stored['scope'], own)",
        "stored['scope']",
        'tests/fault/test_revocation_faults.py',
    ),
    Mutation(
        'two equal events of one moment are both listed',
        'drivers/token/revoke.py',
        '        log_id = uuid.uuid4()\n',
        '        log_id = uuid.UUID(int=0)\n',
        f'{BETWEEN_REGIONS} RevocationLists',
    ),
    Mutation(
        'an event of a server whose clock is ahead is listed',
        'drivers/token/revoke.py',
        'range(since // _BUCKET, now // _BUCKET + 2)',
        'range(since // _BUCKET, now // _BUCKET + 1)',
        f'{BETWEEN_REGIONS} RevocationLists',
    ),
    Mutation(
        'a token can be fetched for a while once it has expired',
        'drivers/token/provider.py',
        'clock.ttl_until(expires_at, self.conf.token.allow_expired_window)',
        'clock.ttl_until(expires_at)',
        f'{BETWEEN_REGIONS} IssuedTokens',
    ),
    Mutation(
        'a receipt is gone once it has expired',
        'drivers/token/receipt.py',
        '        ttl = clock.ttl_until(expires_at)\n',
        '        ttl = clock.ttl_until(expires_at, 3600)\n',
        f'{BETWEEN_REGIONS} Receipts',
    ),
    Mutation(
        'index rows are there before their entity',
        'tables/index.py',
        '                sent.result()\n            try:\n',
        '                pass\n            try:\n',
        'tests/contract/test_named.py',
    ),
    Mutation(
        'after a gap all caches are dropped',
        'db/following.py',
        '        self._caches.drop_all()\n',
        '',
        'tests/unit/test_following.py',
    ),
    Mutation(
        'what comes late after a gap is followed',
        'db/following.py',
        'if self.beat - self.gap_at >= max(_GAP_EVERY, quiet):',
        'if False:',
        'tests/unit/test_following.py',
    ),
    Mutation(
        'what waits is not marked as dropped',
        'db/following.py',
        "        ids -= {each.entry['id'] for each in origin.waiting}\n",
        '',
        'tests/unit/test_following.py',
    ),
    Mutation(
        'a change is fetched before it is dropped',
        'db/following.py',
        '            fetch(self._db, keys)\n',
        '            pass\n',
        'tests/unit/test_following.py',
    ),
)
