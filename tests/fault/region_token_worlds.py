# SPDX-License-Identifier: Apache-2.0
"""Worlds of tokens, receipts and revocations, whose calls meet in two regions.

What is wrong with them is told by what was acknowledged; see
``region_tokens``.
"""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from keystone.common import utils
from keystone.models import revoke_model
from keystone.models.receipt_model import ReceiptModel
from lab.waiting import until

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base
from keystone_cassandra_token.drivers.token import receipt, revoke
from keystone_cassandra_token.drivers.token.opaque_ids import hashed
from tests.fault.generated import State, operation
from tests.fault.region_tokens import (
    COMPARED,
    HOUR,
    ROUNDED,
    SECOND,
    TOKENS,
    Served,
    SomeTokens,
    named,
    row_lasts,
    validated,
)


class IssuedTokens(SomeTokens):
    """Tokens of a user, a stranger, a trust, a consumer and a domain."""

    there = tuple(TOKENS)

    @operation()
    def issue_another(self) -> None:
        self.issue('another', TOKENS['plain'])

    @operation()
    def issue_from_it(self) -> None:
        self.issue('rescoped', TOKENS['plain'], parent='audit of plain')

    @operation()
    def issue_to_stranger(self) -> None:
        self.issue('another strange', TOKENS['strange'])

    @operation()
    def revoke_it(self) -> None:
        """As Keystone does: it alone, and all that was made from it.

        By a server whose clock is far behind.
        """
        self.revoke(self.before, audit_id='audit of plain')
        self.revoke(self.before, audit_chain_id='audit of plain')

    @operation()
    def revoke_it_alone(self) -> None:
        self.revoke(self.before, audit_id='audit of plain')

    @operation()
    def revoke_trust(self) -> None:
        self.revoke(self.before, trust_id='trust')

    @operation()
    def revoke_consumer(self) -> None:
        self.revoke(consumer_id='consumer')

    @operation()
    def revoke_access(self) -> None:
        self.revoke(access_token_id='access')

    @operation()
    def revoke_user(self) -> None:
        self.revoke(user_id='user')

    @operation()
    def revoke_user_before(self) -> None:
        """An event that is older than all tokens, and stops none."""
        self.revoke(self.before, user_id='user')

    @operation()
    def revoke_project(self) -> None:
        self.revoke(project_id='project')

    @operation()
    def revoke_user_in_project(self) -> None:
        self.revoke(user_id='user', project_id='project')

    @operation()
    def revoke_user_elsewhere(self) -> None:
        """Nobody has a token of these two."""
        self.revoke(user_id='user', project_id='nowhere')

    @operation()
    def revoke_role(self) -> None:
        self.revoke(role_id='role')

    @operation()
    def revoke_domain(self) -> None:
        self.revoke(domain_id='domain')

    @operation()
    def revoke_domain_until(self) -> None:
        """One for a domain itself is found by this and its expiry."""
        self.note_revoked(
            revoke_model.RevokeEvent(
                issued_before=self.after,
                domain_id=self.id('domain'),
                expires_at=self.expiry('ruling'),
            )
        )


class LongerTokens(SomeTokens):
    """A token of a user; more that live longer than any before.

    Each longer one raises for how long revocations are kept.
    """

    there = ('plain',)
    #: Each life is longer than the one before: of all worlds of a process,
    #: which have one setting.
    lives = itertools.count(1)

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        # A server that revokes knows what is the setting until now.
        assert not self.is_revoked(*self.issued)
        # So each world raises it, and is made by itself.
        self.issue('long', TOKENS['plain'], life=self.longer())

    def longer(self) -> datetime.timedelta:
        return (2 + next(self.lives)) * HOUR

    @operation()
    def issue_longer(self) -> None:
        self.issue('longer', TOKENS['plain'], life=self.longer())

    @operation()
    def issue_longer_from_it(self) -> None:
        self.issue(
            'rescoped',
            TOKENS['plain'],
            parent='audit of plain',
            life=self.longer(),
        )

    @operation()
    def revoke_it(self) -> None:
        self.revoke(self.before, audit_id='audit of plain')
        self.revoke(self.before, audit_chain_id='audit of plain')

    @operation()
    def revoke_user(self) -> None:
        self.revoke(user_id='user')

    @operation()
    def revoke_role(self) -> None:
        self.revoke(role_id='role')


class RevocationLists(Served):
    """Events of a user, in the list of all events."""

    drivers: ClassVar[Mapping[str, type[base.Driver]]] = {
        'revocations': revoke.Revoke
    }
    revocations: revoke.Revoke

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.tried: list[revoke_model.RevokeEvent] = []
        self.told: list[revoke_model.RevokeEvent] = []
        self.revoke(user_id='user')

    def revoke(
        self,
        at: datetime.datetime | None = None,
        before: datetime.datetime | None = None,
        expires_at: datetime.datetime | None = None,
        **names: str,
    ) -> None:
        at = at or self.begin
        event = revoke_model.RevokeEvent(
            revoked_at=at,
            issued_before=before or at,
            expires_at=expires_at,
            **{name: self.id(label) for name, label in names.items()},
        )
        self.tried.append(event)
        self.revocations.revoke(event)
        self.told.append(event)

    @operation()
    def revoke_again(self) -> None:
        """In the same second as the first, and as in the other region."""
        self.revoke(user_id='user')

    @operation()
    def revoke_later(self) -> None:
        self.revoke(self.begin + SECOND, user_id='user')

    @operation()
    def revoke_late(self) -> None:
        """By a server whose clock is an hour behind: of another bucket."""
        self.revoke(self.begin - HOUR, user_id='user')

    @operation()
    def revoke_early(self) -> None:
        self.revoke(self.begin + HOUR, user_id='user')

    @operation()
    def revoke_grant(self) -> None:
        """As of a role that was taken away."""
        self.revoke(
            before=self.begin - SECOND,
            user_id='user',
            project_id='project',
            role_id='role',
        )

    @operation()
    def revoke_role(self) -> None:
        self.revoke(role_id='role', domain_id='domain')

    @operation()
    def revoke_all_names(self) -> None:
        """With an expiry, the domain is that of the scope."""
        names = {*COMPARED} - {'expires_at', 'domain_scope_id'}
        self.revoke(
            expires_at=self.begin + HOUR, **{name: name for name in names}
        )

    def listed(
        self, since: datetime.datetime
    ) -> list[revoke_model.RevokeEvent]:
        own = {*self._ids.values()}
        events = self.revocations.list_events(last_fetch=since)
        return [each for each in events if own & {*named(each).values()}]

    def state(self) -> State:
        moments = {'listed': self.begin - 2 * HOUR, 'newer': self.begin}
        return {
            name: sorted(map(self.described, self.listed(since)))
            for name, since in moments.items()
        }

    def described(self, event: revoke_model.RevokeEvent) -> str:
        labels = [
            f'{name} {value - self.begin}'
            if name == 'expires_at'
            else f'{name} {self.labels([value])[0]}'
            for name, value in sorted(named(event).items())
        ]
        return (
            f'{", ".join(labels)} at {event.revoked_at - self.begin},'
            f' before {event.issued_before - self.begin}'
        )

    def wrong(self) -> list[str]:
        """What was acknowledged and is not listed, and the other way round."""
        listed = self.counted(self.listed(self.begin - 2 * HOUR))
        told, tried = self.counted(self.told), self.counted(self.tried)
        return [
            *(f'not listed: {each}' for each in (told - listed).elements()),
            *(f'listed: {each}' for each in (listed - tried).elements()),
        ]

    def counted(self, events: list[revoke_model.RevokeEvent]) -> Counter[str]:
        return Counter(map(self.described, events))


#: Seconds after its end for which a receipt is looked for.
LONG_OVER = 10 * SECOND


class Receipts(Served):
    """A receipt of a user."""

    drivers: ClassVar[Mapping[str, type[base.Driver]]] = {
        'receipts': receipt.Provider
    }
    receipts: receipt.Provider

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        #: What was acknowledged, by id: its label, its end and its values.
        self.issued: dict[
            str, tuple[str, datetime.datetime, tuple[Any, ...]]
        ] = {}
        self.issue('first', 'user')

    def issue(self, label: str, user: str, life: float = 3600) -> str:
        model = ReceiptModel()
        model.user_id, model.methods = self.id(user), ['password', label]
        ends = clock.utcnow() + life * SECOND
        model.expires_at = utils.isotime(ends, subsecond=True)
        made, issued_at = self.receipts.generate_id_and_issued_at(model)
        values = (model.user_id, model.methods, issued_at, model.expires_at)
        self.issued[made] = label, ends, values
        return made

    @operation()
    def issue_another(self) -> None:
        self.issue('another', 'user')

    @operation()
    def issue_to_another(self) -> None:
        self.issue('of another', 'another')

    @operation()
    def issue_expired(self) -> None:
        self.issue('expired', 'user', -60)

    @operation()
    def issue_short(self) -> None:
        """The other region hears of it when it has expired."""
        made = self.issue('short', 'user', 1)
        until(lambda: self.is_over(made), 'the end of a receipt')

    def is_over(self, made: str) -> bool:
        _, ends, _ = self.issued[made]
        return (
            validated(self.receipts.validate_receipt, made) is None
            or clock.utcnow() > ends + LONG_OVER
        )

    def state(self) -> State:
        seen: dict[str, list[str]] = {}
        for made, (label, _, _) in [*self.issued.items()]:
            values = validated(self.receipts.validate_receipt, made)
            seen.setdefault(label, []).append('valid' if values else 'gone')
        return {label: sorted(said) for label, said in seen.items()}

    def wrong(self) -> list[str]:
        """What was acknowledged, and is not so in this region."""
        wrong = []
        for made, (label, ends, given) in [*self.issued.items()]:
            values = validated(self.receipts.validate_receipt, made)
            lasts = self.lasts(made)
            left = (ends - clock.utcnow()).total_seconds()
            if left < 0 and values:
                wrong.append(f'{label} is accepted, though it has expired')
            elif left > ROUNDED and values != given:
                wrong.append(f'{label} is {"other" if values else "missing"}')
            elif not left - ROUNDED < lasts < max(left, 0) + ROUNDED:
                wrong.append(f'{label} lasts {lasts} s, and not {left:.0f} s')
        return wrong

    def lasts(self, made: str) -> int:
        return row_lasts(
            self.store, 'receipt', hashed(self.receipts.conf, made)
        )


WORLDS = (IssuedTokens, LongerTokens, RevocationLists, Receipts)
