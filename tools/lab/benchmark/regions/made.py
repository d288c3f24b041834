# SPDX-License-Identifier: Apache-2.0
"""What is made in region 1, and read in region 3 right after that."""

from __future__ import annotations

import secrets
import statistics
import time
import uuid
from collections.abc import Callable

from lab.benchmark.regions.sites import Answer, Person, System
from lab.benchmark.regions.tally import Tally, brief, share
from lab.waiting import until

#: Makes something in region 1; returns how region 3 is asked for it.
Make = Callable[[System, Person, Person], Callable[[], Answer]]


def _token(
    system: System, person: Person, other: Person
) -> Callable[[], Answer]:
    token = system.first.log_in_person(person).token
    return lambda: system.third.validate(token)


def _user(
    system: System, person: Person, other: Person
) -> Callable[[], Answer]:
    who = uuid.uuid4().hex, secrets.token_urlsafe(16)
    system.first.create('user', name=who[0], password=who[1]).good()
    return lambda: system.third.log_in(who)


def _application_credential(
    system: System, person: Person, other: Person
) -> Callable[[], Answer]:
    token = system.first.log_in_person(person).token
    made = system.first.application_credential(person, token).good()
    credential = made.body['application_credential']
    return lambda: system.third.log_in_by(credential)


def _trust(
    system: System, person: Person, other: Person
) -> Callable[[], Answer]:
    token = system.first.log_in_person(person).token
    made = system.first.trust(person, token, other).good()
    scope = {'OS-TRUST:trust': {'id': made.body['trust']['id']}}
    who = other.name, other.password
    return lambda: system.third.log_in(who, scope)


KINDS: dict[str, Make] = {
    'token (validation)': _token,
    'user (log-in by name)': _user,
    'application credential (log-in)': _application_credential,
    'trust (log-in)': _trust,
}


def measure(system: System, tally: Tally, rounds: int, rtt_ms: int) -> None:
    """Make each kind of thing so many times, and read it."""
    person, other = system.people(2)
    for what, make in KINDS.items():
        found = []
        late = []
        for _ in range(rounds):
            ask = make(system, person, other)
            begin = time.monotonic()
            answer = ask()
            if answer.ok:
                found.append(answer.seconds)
                continue
            until(lambda: ask().ok, f'{what} in region 3')  # noqa: B023
            late.append(time.monotonic() - begin)
        text = f'{share(len(found), rounds)} at once'
        if found:
            middle = tally.keep(f'b. {what}', system.name, found, rtt_ms)
            text += f', in {brief(middle)}'
        if late:
            after = statistics.median(late)
            text += f'; else after {brief(after)}'
        tally.tell('b', f'{what} made in 1, read in 3', system.name, text)
