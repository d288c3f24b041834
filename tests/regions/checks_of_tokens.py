# SPDX-License-Identifier: Apache-2.0
"""Tokens: what has ended is refused everywhere, all else is accepted."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

from tests.regions.checks_of_users import enabled_of, roles_of
from tests.regions.history import OK, REFUSED, UNKNOWN, History, Operation
from tests.regions.timeline import Timeline
from tests.regions.violation import Violation

#: What ends all tokens of a user that have not seen it.
OF_USER = ('password.reset', 'password.change', 'user.disable')
ISSUES = ('token.log_in', 'trust.use', 'credential.log_in')


@dataclasses.dataclass
class Issued:
    """A token: what issued it, and what may have ended it."""

    by: Operation
    ends: list[Operation]


def issued(history: History) -> dict[str, Issued]:
    """Return all tokens by their labels."""
    ends: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for each in history.of(
        *('token.revoke', 'trust.delete', 'credential.delete', *OF_USER)
    ):
        if each.outcome in (OK, UNKNOWN) and each.number >= 0:
            for name in 'token', 'trust', 'entity', 'user':
                if name in each.about:
                    ends[name, each.about[name]].append(each)
    found = {}
    for each in history.of(*ISSUES):
        if each.outcome == OK:
            token = each.shown['token']
            own = ends['token', token][:]
            for name in 'trust', 'entity', 'user':
                own += ends[name, each.about.get(name, '')]
            found[token] = Issued(each, own)
    return found


def ended_is_refused(history: History, time: Timeline) -> Iterator[Violation]:
    """What was ended, with acknowledgement, is accepted nowhere later."""
    tokens = issued(history)
    for read in history.of('token.validate'):
        if read.outcome != OK or not time.is_checked(read):
            continue
        token = tokens[read.about['token']]
        for end in token.ends:
            if (
                end.outcome == OK
                and time.counts(end, read)
                and _must_end(time, end, token.by)
            ):
                yield Violation(
                    'a token that has ended is refused', [read, end, token.by]
                )
                break


def _must_end(time: Timeline, end: Operation, by: Operation) -> bool:
    """Return whether an end is one of this very token."""
    if by.end <= end.begin:
        return True
    # Who was let in meanwhile, where nobody could know of it, is stopped
    # (ADR 0014, *Late revocations*).  Where it had begun to arrive, the token
    # may count as one that has seen it (*Consequences* there).
    return (
        end.kind in OF_USER
        and end.outcome == OK
        and end.end <= by.begin
        and end.region != by.region
        and time.was_cut(end, by.end)
    )


def issued_is_accepted(
    history: History, time: Timeline
) -> Iterator[Violation]:
    """What nothing can have ended is accepted."""
    tokens = issued(history)
    implied = _implied(history, tokens)
    for read in history.of('token.validate'):
        if read.outcome != REFUSED or not time.is_checked(read):
            continue
        token = tokens[read.about['token']]
        by = token.by
        # A used-up trust is there no more (design of trusts: as SQL).
        if by.kind == 'trust.use' or not time.counts(by, read):
            continue
        ends = [*token.ends, *implied[by.about.get('user', '')]]
        if any(_may_end(time, end, by, read) for end in ends):
            continue
        user = by.about.get('user')
        if user and (
            enabled_of(history, time, user, read) != [True]
            or not any(roles_of(history, time, user, read).values())
        ):
            continue
        yield Violation(
            'a token that nothing has ended is accepted', [read, by]
        )


def _may_end(
    time: Timeline, end: Operation, by: Operation, read: Operation
) -> bool:
    if end.begin >= read.end:
        return False
    # One that was known when the token was issued does not stop it (the page
    # on deviations, *A revocation that a token has seen*).
    seen = end.kind in (*OF_USER, 'token.validate') and (
        time.arrival(end, by.region) <= by.begin
    )
    return not seen


def _implied(
    history: History, tokens: dict[str, Issued]
) -> dict[str, list[Operation]]:
    """Return what Keystone revokes by itself, by user.

    Who shows it a token of a user whom it takes for disabled ends all of that
    user's tokens (keystone.token.provider).
    """
    implied = defaultdict(list)
    for read in history.of('token.validate', 'token.revoke'):
        token = tokens.get(read.about['token'])
        if token is None or read.outcome == OK:
            continue
        user = token.by.about.get('user')
        if user and any(
            x.begin < read.end and x.outcome in (OK, UNKNOWN)
            for x in history.of('user.disable', user=user)
        ):
            implied[user].append(read)
    return implied
