# SPDX-License-Identifier: Apache-2.0
"""Users: who may log in, with which password, and with which roles."""

from __future__ import annotations

from collections.abc import Iterator

from tests.regions.history import OK, REFUSED, History, Operation
from tests.regions.timeline import Timeline, possible
from tests.regions.violation import Violation

ROLES = ('r1', 'r2')
_RESET, _CHANGE = 'password.reset', 'password.change'


def passwords_of(
    history: History, time: Timeline, user: str, read: Operation | None
) -> list[str]:
    """Return the passwords that a user can have."""
    writes = history.of(_RESET, _CHANGE, user=user)
    return possible(time, writes, lambda x: x.about['password'], read)


def enabled_of(
    history: History, time: Timeline, user: str, read: Operation | None
) -> list[bool]:
    """Return whether a user can be enabled, and can be disabled."""
    writes = history.of('user.enable', 'user.disable', user=user)
    return possible(time, writes, lambda x: x.kind == 'user.enable', read)


def roles_of(
    history: History, time: Timeline, user: str, read: Operation
) -> dict[str, bool]:
    """Return the roles that a user may have, and whether it must have them."""
    found = {}
    for role in ROLES:
        writes = [
            *history.of('grant.add', 'grant.remove', user=user, role=role)
        ]
        can = possible(time, writes, lambda x: x.kind == 'grant.add', read)
        if True in can:
            # It was not there before it was given.
            found[role] = can == [True] and any(
                x.outcome == OK and time.counts(x, read) for x in writes
            )
    return found


def passwords(history: History, time: Timeline) -> Iterator[Violation]:
    """The current password logs in, no other one does."""
    for read in history.of('token.log_in'):
        if not time.is_checked(read):
            continue
        user, password = read.about['user'], read.about['password']
        can = passwords_of(history, time, user, read)
        if read.outcome == OK and password not in can:
            yield Violation('a former password lets nobody in', [read])
        elif (
            read.outcome == REFUSED
            and can == [password]
            and enabled_of(history, time, user, read) == [True]
            # Who has no role on a project cannot log in for it.
            and any(roles_of(history, time, user, read).values())
        ):
            yield Violation('the current password lets in', [read])


def last_password(history: History, time: Timeline) -> Iterator[Violation]:
    """In the end one password lets in, and everywhere the same."""
    by_user: dict[str, dict[str, list[Operation]]] = {}
    for read in history.of('token.log_in'):
        if time.is_last(read) and read.outcome == OK:
            user, password = read.about['user'], read.about['password']
            by_user.setdefault(user, {}).setdefault(password, []).append(read)
    for user, found in by_user.items():
        several = [x for reads in found.values() for x in reads]
        if len(found) > 1:
            yield Violation('one password lets in', several)
        for password in found:
            writes = history.of(_RESET, _CHANGE, user=user, password=password)
            for write in writes:
                reset = _undone(history, time, user, write)
                if reset:
                    # The page on deviations, *Several regions*.
                    yield Violation(
                        'a reset is not undone by a change of what it'
                        ' replaced',
                        [*found[password], write, reset],
                    )


def _undone(
    history: History, time: Timeline, user: str, write: Operation
) -> Operation | None:
    """Return a reset that a user's own change did not know of."""
    if write.kind != _CHANGE:
        return None
    for reset in history.of(_RESET, user=user):
        if (
            reset.outcome == OK
            and not time.knows(write, reset)
            and not time.knows(reset, write)
            # It may have arrived just before.
            and time.was_cut(reset, write.end)
            and reset.end <= write.begin
        ):
            return reset
    return None


def enabled(history: History, time: Timeline) -> Iterator[Violation]:
    """Who is disabled is not let in; who is shown is as it was left."""
    for read in history.of('token.log_in', 'user.show'):
        if read.outcome != OK or not time.is_checked(read):
            continue
        can = enabled_of(history, time, read.about['user'], read)
        if read.shown.get('enabled', True) not in can:
            yield Violation('what was done last to a user counts', [read])
    yield from _differing(history, time, 'user.show', 'enabled')


def roles(history: History, time: Timeline) -> Iterator[Violation]:
    """A role that was given is had, one that was taken away is not."""
    of_token = {
        x.shown['token']: x.about['user']
        for x in history.of('token.log_in')
        if x.outcome == OK
    }
    for read in history.of('token.log_in', 'token.validate', 'grant.list'):
        if read.outcome != OK or not time.is_checked(read):
            continue
        user = read.about.get('user') or of_token.get(read.about['token'])
        if user is None:
            continue
        can = roles_of(history, time, user, read)
        shown = read.shown['roles']
        must = [role for role, needed in can.items() if needed]
        if set(shown) - can.keys():
            yield Violation('a role that was taken away is not had', [read])
        if set(must) - set(shown):
            yield Violation('a role that was given is had', [read])
    yield from _differing(history, time, 'grant.list', 'roles')


def _differing(
    history: History, time: Timeline, kind: str, name: str
) -> Iterator[Violation]:
    """Find reads that differ between regions in the end."""
    first: dict[str, Operation] = {}
    for read in history.of(kind):
        if time.is_last(read) and read.outcome == OK:
            other = first.setdefault(read.about['user'], read)
            if other.shown[name] != read.shown[name]:
                yield Violation('all regions show the same', [read, other])
