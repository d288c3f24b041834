# SPDX-License-Identifier: Apache-2.0
"""Guards of what several regions know of each other, with their tests."""

from __future__ import annotations

from tests.mutation import Mutation

SEEN = 'tests/contract/test_seen.py'

GUARDS = (
    Mutation(
        'a region that is not ready does not serve',
        'schema/version.py',
        'if text is not None and not any_region:',
        'if False:',
        'tests/fault/test_followed.py -k serves_once',
    ),
    Mutation(
        'a region is ready once it has all revocations',
        'cmd/region.py',
        'db.iterate(events.BRING_ALL, events.REVOCATION)',
        '()',
        'tests/fault/test_followed.py -k serves_once',
    ),
    Mutation(
        'what is silent in a row shares one wait',
        'db/agreement.py',
        '        return self._left()\n\n    def is_over',
        '        return self._wait\n\n    def is_over',
        'tests/unit/test_agreement.py',
    ),
    Mutation(
        'what has failed for want of other regions fails at once',
        'db/agreement.py',
        '        elif tries != thread:\n',
        '        elif False:\n',
        'tests/unit/test_agreement.py',
    ),
    Mutation(
        'once other regions have answered nothing fails at once',
        'db/agreement.py',
        '        self._cut_off.ended(self._operation)\n',
        '',
        'tests/fault/test_cut_off.py',
    ),
    Mutation(
        'what was deleted here is not found elsewhere',
        'tables/entity_reads.py',
        '        if stored is None:\n'
        '            return self.seek(db, entity_id)\n',
        '        if stored is None or not self.exists(stored):\n'
        '            return self.seek(db, entity_id)\n',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'a deletion leaves a marker of what is sought elsewhere',
        'tables/entity_statements.py',
        'sought_elsewhere and not single_partition\n',
        'False\n',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'a deletion of what is kept together is noted',
        'tables/entity.py',
        "            removals.note(db, self.table, [entity['id']])\n",
        '            pass\n',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'a deletion of several at once is noted',
        'tables/batches.py',
        'if removes and entity.is_noted:',
        'if False:',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'where a deletion may be unknown, nothing is found elsewhere',
        'db/escalation.py',
        "if judge and outcome == 'missing' else None",
        'if judge else None',
        'tests/unit/test_escalation.py',
    ),
    Mutation(
        'what is older is not taken from elsewhere',
        'tables/entity_reads.py',
        'found is not None and escalation.is_born(',
        'found is not None and bool(',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'a change seeks nothing elsewhere',
        'tables/named.py',
        '                old = self.entity.find(db, entity_id)\n'
        '                if old is None:\n',
        '                old = self.entity.find_anywhere(db, entity_id)\n'
        '                if old is None:\n',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'a tag is checked before anybody is asked',
        'drivers/token/opaque_ids.py',
        'is_known=hint.is_tagged,',
        'is_known=True,',
        'tests/fault/test_escalation.py',
    ),
    Mutation(
        'who has failed is left alone',
        'db/escalation.py',
        '        if now < self.held_until:\n            return False\n',
        '',
        'tests/unit/test_escalation.py',
    ),
    Mutation(
        'commands ask nobody',
        'db/escalation.py',
        'if not deadline.serving.is_set() or not self._rate:',
        'if not self._rate:',
        'tests/unit/test_escalation.py',
    ),
    Mutation(
        'a revocation that a token has not seen stops it, if its clock lags',
        'drivers/token/seen.py',
        'return SLACK if is_used(conf) else _NONE',
        'return _NONE',
        SEEN,
    ),
    Mutation(
        'a revocation that a token has seen does not stop it',
        'drivers/token/seen.py',
        'if digest(row) not in noted]',
        ']',
        SEEN,
    ),
    Mutation(
        'a token has seen what the first one of its chain has',
        'drivers/token/seen.py',
        "known = (token['audit_id'], token['audit_chain_id'])",
        "known = (token['audit_id'],)",
        SEEN,
    ),
    Mutation(
        'two revocations of one second are two',
        'drivers/token/seen.py',
        "kept.by, first, row['made_at']]",
        'kept.by, first]',
        SEEN,
    ),
    Mutation(
        'a clock that is behind hides no revocation of another machine',
        'drivers/token/revoke.py',
        'events.Kept(kept, events.here())',
        'events.Kept(kept)',
        SEEN,
    ),
    Mutation(
        'a revocation that comes late stops whom it should have stopped',
        'drivers/token/revoke.py',
        'changes.LATE[changes.REVOCATION] = _repeat\n',
        'changes.LATE[changes.REVOCATION] = lambda db, keys: None\n',
        SEEN,
    ),
    Mutation(
        'one that comes late is the same for tokens that have seen it',
        'drivers/token/revoke.py',
        'ttl=ttl, first=first)',
        'ttl=ttl)',
        SEEN,
    ),
    Mutation(
        'a token that was valid in a cache gets none that lives on',
        'drivers/token/seen.py',
        '    unknown = [each for each in unknown if each != own]\n',
        '    pass\n',
        SEEN,
    ),
    Mutation(
        'a pulse that stands still does not tell how old an entry is',
        'db/following.py',
        'late=(silent or ',
        'late=(',
        'tests/unit/test_following.py',
    ),
    Mutation(
        'the follower tells what comes late',
        'db/following.py',
        'if late and after is not None:',
        'if False:',
        'tests/unit/test_following.py',
    ),
)
