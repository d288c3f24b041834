# SPDX-License-Identifier: Apache-2.0
"""The checker of histories, on histories that are made by hand.

Each promise has a history that keeps it, and one that breaks it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests import mutations
from tests.regions import check, planted, table
from tests.regions.history import (
    OK,
    REFUSED,
    UNKNOWN,
    Fault,
    History,
    Operation,
    Recorder,
    Settled,
)

BOUND = 2.0


class Made:
    """A history that grows: each operation a second after the one before.

    :ivar now: when the last one ended.
    """

    def __init__(self) -> None:
        self.history = History({'seed': 0, 'bound': BOUND, 'limit': 2})
        self.now = 0.0
        for kind, about in (
            ('password.reset', {'password': 'w1'}),
            ('user.enable', {}),
            ('grant.add', {'role': 'r1'}),
        ):
            self(1, kind, user='u', **about)
        self.later()

    def __call__(
        self,
        region: int,
        kind: str,
        outcome: str = OK,
        *,
        shown: dict[str, Any] | None = None,
        at: tuple[float, float] | None = None,
        round: int = 0,
        **about: Any,
    ) -> Operation:
        begin, end = at or (self.now + 0.5, self.now + 1)
        self.now = max(self.now, end)
        made = Operation(
            len(self.history.operations),
            *(region, begin, end, kind, about, outcome),
            *({OK: 200, REFUSED: 404}.get(outcome), shown or {}, round),
        )
        self.history.add(made)
        return made

    def later(self, seconds: float = 2 * BOUND) -> None:
        self.now += seconds

    def fault(self, kind: str, begin: float, end: float, region: int) -> None:
        times = begin - 0.1, begin, end, end + 0.1
        self.history.add(Fault(kind, region, None, *times))

    def settled(self, repaired: bool = False) -> None:
        self.later(1)
        self.history.add(Settled(self.now - 1, self.now, repaired))

    def log_in(
        self,
        region: int = 1,
        token: str = 'T1',
        password: str = 'w1',
        **more: Any,
    ) -> Operation:
        return self(
            region,
            'token.log_in',
            user='u',
            password=password,
            shown={'token': token, 'roles': ['r1']},
            **more,
        )

    def accepts(self, region: int, token: str = 'T1', **more: Any) -> None:
        shown = {'roles': ['r1']}
        self(region, 'token.validate', token=token, shown=shown, **more)

    def refuses(self, region: int, token: str = 'T1', **more: Any) -> None:
        self(region, 'token.validate', REFUSED, token=token, **more)

    def create(
        self, entity: str, name: str = 'a', outcome: str = OK, **more: Any
    ) -> Operation:
        more = {'of': 'group', 'region': 1, **more}
        region = more.pop('region')
        return self(
            region,
            'name.create',
            outcome,
            entity=entity,
            name=name,
            **more,
        )

    def delete(self, entity: str, region: int = 1, outcome: str = OK) -> None:
        self(region, 'name.delete', outcome, entity=entity, of='group')

    def rename(
        self, entity: str, name: str, region: int = 1, outcome: str = OK
    ) -> None:
        self(
            region,
            'name.rename',
            outcome,
            entity=entity,
            name=name,
            of='group',
        )

    def finds(self, region: int, name: str | None, **more: Any) -> None:
        round = more.pop('round', 0)
        self(
            region,
            'name.find',
            of='group',
            name=name,
            shown={'found': more},
            round=round,
        )

    def broken(self) -> list[str]:
        return [each.promise for each in check.violations(self.history)]


@pytest.fixture
def made() -> Made:
    return Made()


def test_a_token_is_accepted_everywhere_and_refused_once_revoked(
    made: Made,
) -> None:
    made.log_in()
    made.accepts(1)
    made.later()
    made.accepts(2)
    made(2, 'token.revoke', token='T1')
    made.refuses(2)
    made.accepts(1)  # not yet there
    made.later()
    made.refuses(1)
    assert made.broken() == []


@pytest.mark.parametrize(
    ('kind', 'about'),
    [
        ('token.revoke', {'token': 'T1'}),
        ('password.reset', {'user': 'u', 'password': 'w2'}),
        ('password.change', {'user': 'u', 'password': 'w2'}),
        ('user.disable', {'user': 'u'}),
    ],
)
@pytest.mark.parametrize('region', [1, 2])
def test_a_token_that_has_ended_is_accepted(
    made: Made, kind: str, about: dict[str, Any], region: int
) -> None:
    made.log_in()
    made(1, kind, **about)
    if region == 2:
        made.accepts(region)
        assert made.broken() == []
        made.later()
    made.accepts(region)
    assert made.broken() == ['a token that has ended is refused']


@pytest.mark.parametrize(
    ('by', 'end', 'about'),
    [
        ('trust.use', 'trust.delete', {'trust': 'S1'}),
        ('credential.log_in', 'credential.delete', {'entity': 'C1'}),
    ],
)
def test_a_token_is_accepted_of_what_was_deleted(
    made: Made, by: str, end: str, about: dict[str, Any]
) -> None:
    made(1, by, shown={'token': 'T1'}, **about)
    made.accepts(1)
    made(1, end, **about, of='credential')
    assert made.broken() == []
    made.accepts(1)
    assert made.broken() == ['a token that has ended is refused']


def test_an_unknown_revocation_may_count_or_not(made: Made) -> None:
    made.log_in()
    made(1, 'token.revoke', UNKNOWN, token='T1')
    made.accepts(1)
    made.refuses(1)
    assert made.broken() == []


def test_a_token_that_nothing_has_ended_is_refused(made: Made) -> None:
    made.log_in()
    made.refuses(2)  # not yet there
    assert made.broken() == []
    made.later()
    made.refuses(2)
    assert made.broken() == ['a token that nothing has ended is accepted']


def test_a_cut_counts_from_what_has_settled(made: Made) -> None:
    made.log_in()
    made.later()
    begin = made.now
    made(1, 'token.revoke', token='T1')
    made.later(20)
    made.accepts(2)
    made.fault('cut', begin, made.now, 2)
    made.accepts(2)
    made.settled()
    made.accepts(2)  # what comes late may take some seconds more
    assert made.broken() == []
    made.later(20)
    made.accepts(2)
    assert made.broken() == ['a token that has ended is refused']


def test_what_a_killed_node_has_not_sent_needs_a_repair(made: Made) -> None:
    made.log_in()
    made.later()
    made(1, 'token.revoke', token='T1')
    made.fault('kill node', made.now + 0.2, made.now + 5, 1)
    made.later(5)
    made.settled()
    made.later(20)
    made.accepts(2)
    assert made.broken() == []
    made.settled(repaired=True)
    made.accepts(2, round=1)  # read again
    assert made.broken() == ['a token that has ended is refused']
    made.refuses(2, round=2)
    assert made.broken() == []


def test_who_was_let_in_where_nobody_could_know_is_stopped(
    made: Made,
) -> None:
    begin = made.now
    made(1, 'password.reset', user='u', password='w2')
    made.log_in(2)  # with the former one
    made.fault('cut', begin, made.now, 1)
    made.settled(repaired=True)
    made.accepts(2, round=1)
    assert made.broken() == ['a token that has ended is refused']


def test_who_logs_in_with_a_former_password(made: Made) -> None:
    made(1, 'password.reset', user='u', password='w2')
    made.log_in(2)
    assert made.broken() == []
    made.later()
    made.log_in(2, 'T2')
    assert made.broken() == ['a former password lets nobody in']


def test_a_log_in_with_the_current_password_is_refused(made: Made) -> None:
    refused = {'user': 'u', 'password': 'w2'}
    made(1, 'password.reset', user='u', password='w2')
    made(2, 'token.log_in', REFUSED, **refused)
    assert made.broken() == []
    made(1, 'token.log_in', REFUSED, **refused)
    assert made.broken() == ['the current password lets in']


def test_two_passwords_let_in_at_the_end(made: Made) -> None:
    begin = made.now
    made(1, 'password.reset', user='u', password='w2')
    made(2, 'password.reset', user='u', password='w3')
    made.fault('cut', begin, made.now, 2)
    made.settled(repaired=True)
    made.log_in(1, 'T1', 'w2', round=1)
    assert made.broken() == []
    made.log_in(2, 'T2', 'w3', round=1)
    assert made.broken() == ['one password lets in']


def test_a_reset_is_undone_by_a_change_that_did_not_know_of_it(
    made: Made,
) -> None:
    begin = made.now
    made(1, 'password.reset', user='u', password='w2')
    made(2, 'password.change', user='u', password='w3')
    made.fault('cut', begin, made.now, 1)
    made.settled(repaired=True)
    made.log_in(1, 'T1', 'w3', round=1)
    assert made.broken() == [
        'a reset is not undone by a change of what it replaced'
    ]


def test_who_is_disabled_logs_in(made: Made) -> None:
    made(1, 'user.disable', user='u')
    made.log_in(2)
    assert made.broken() == []
    made.log_in(1, 'T2')
    assert made.broken() == ['what was done last to a user counts']


def test_roles_are_as_they_were_left(made: Made) -> None:
    made(1, 'grant.remove', user='u', role='r1')
    made(1, 'grant.add', user='u', role='r2')
    made.log_in(2)
    assert made.broken() == []
    made.later()
    made.log_in(2, 'T2')
    assert made.broken() == [
        'a role that was taken away is not had',
        'a role that was given is had',
    ]


def test_of_two_regions_that_do_not_hear_either_may_win(made: Made) -> None:
    begin = made.now
    made(1, 'grant.remove', user='u', role='r1')
    made(2, 'grant.add', user='u', role='r1')
    made.fault('cut', begin, made.now, 2)
    made.settled(repaired=True)
    made(1, 'grant.list', user='u', shown={'roles': ['r1']}, round=1)
    assert made.broken() == []
    made(2, 'grant.list', user='u', shown={'roles': []}, round=1)
    assert made.broken() == ['all regions show the same']


def test_a_name_is_held_twice(made: Made) -> None:
    made.create('E1')
    made.create('E2', 'b')
    made.create('E3', region=2)
    assert made.broken() == ['a name is held once']


@pytest.mark.parametrize('outcome', [OK, UNKNOWN])
def test_a_name_that_may_be_free_is_given_again(
    made: Made, outcome: str
) -> None:
    made.create('E1')
    made.delete('E1', outcome=outcome)
    made.create('E2')
    made.rename('E2', 'b', outcome=outcome)
    made.create('E3')
    assert made.broken() == []


def test_a_rename_takes_a_name_that_is_held(made: Made) -> None:
    made.create('E1')
    made.create('E2', 'b', region=2)
    made.rename('E2', 'a', region=2)
    assert made.broken() == ['a name is held once']


def test_a_creation_that_nobody_knows_of_holds_nothing(made: Made) -> None:
    made.create('E1', outcome=UNKNOWN)
    made.create('E2')
    made.finds(1, 'a', E2='a')
    assert made.broken() == []


def test_a_deletion_wins_over_a_rename_that_did_not_know_of_it(
    made: Made,
) -> None:
    made.create('E1')
    made.later()
    begin = made.now
    made.delete('E1', region=2)
    made.rename('E1', 'b')
    made.fault('cut', begin, made.now, 2)
    made.settled(repaired=True)
    made.create('E2', 'b')
    assert made.broken() == []
    made.finds(1, 'b', E1='b', round=1)
    assert 'E1 stays deleted' in made.broken()


def test_what_is_there_is_not_found(made: Made) -> None:
    made.create('E1')
    made.finds(2, 'a')
    assert made.broken() == []
    made.finds(1, 'a')
    assert made.broken() == ['E1 is found']


def test_what_is_there_is_not_shown(made: Made) -> None:
    made.create('E1')
    made(1, 'name.show', REFUSED, entity='E1', of='group')
    assert made.broken() == ['E1 is there']


def test_what_is_deleted_comes_back(made: Made) -> None:
    made.create('E1')
    made.later()
    made.delete('E1', region=2)
    made(1, 'name.show', entity='E1', of='group', shown={'name': 'a'})
    assert made.broken() == []
    made.later()
    made(1, 'name.show', entity='E1', of='group', shown={'name': 'a'})
    assert made.broken() == ['E1 stays deleted']


def test_a_list_and_a_name_do_not_agree_at_the_end(made: Made) -> None:
    made.create('E1', outcome=UNKNOWN)
    made.settled(repaired=True)
    for region in 1, 2:
        made.finds(region, None, E1='a', round=1)
        made.finds(region, 'a', E1='a', round=1)
    assert made.broken() == []
    made.finds(1, 'a', round=1)
    assert made.broken() == [
        'all regions show the same',
        'who has a name is found by it',
    ]


def test_two_are_listed_with_one_name(made: Made) -> None:
    made.create('E1', outcome=UNKNOWN)
    made.create('E2', outcome=UNKNOWN)
    made.finds(1, None, E1='a', E2='a')
    assert made.broken() == ['a is held once']


def test_a_trust_is_used_too_often(made: Made) -> None:
    made(1, 'trust.create', trust='S1')
    for number in range(2):
        made(1, 'trust.use', trust='S1', shown={'token': f'T{number}'})
    made(1, 'trust.use', UNKNOWN, trust='S1')
    assert made.broken() == []
    made(2, 'trust.use', trust='S1', shown={'token': 'T3'})
    assert made.broken() == ['S1 is used 2 times']


@pytest.mark.parametrize(('left', 'right'), [(1, True), (0, True), (2, False)])
def test_uses_are_counted(made: Made, left: int, right: bool) -> None:
    made(1, 'trust.create', trust='S1')
    made(1, 'trust.use', trust='S1', shown={'token': 'T1'})
    made(1, 'trust.use', UNKNOWN, trust='S1')
    made(2, 'trust.show', trust='S1', shown={'left': left}, round=1)
    assert (made.broken() == []) == right


def test_an_application_credential_that_is_deleted_lets_in(
    made: Made,
) -> None:
    entity = {'entity': 'C1', 'of': 'credential'}
    made(1, 'credential.create', name='o1-1', **entity)
    made(1, 'credential.delete', **entity)
    made(1, 'credential.log_in', entity='C1', shown={'token': 'T1'})
    assert made.broken() == ['C1 stays deleted']


def test_a_credential_comes_back(made: Made) -> None:
    secret = {'entity': 'K1', 'of': 'secret'}
    made(1, 'secret.create', name='k1', **secret)
    made.later()
    begin = made.now
    made(1, 'secret.delete', **secret)
    made(2, 'secret.change', name='k2', **secret)
    made.fault('cut', begin, made.now, 2)
    made.settled(repaired=True)
    made(2, 'secret.show', REFUSED, round=1, **secret)
    assert made.broken() == []
    made(1, 'secret.show', shown={'name': 'k2'}, round=1, **secret)
    assert made.broken() == ['K1 stays deleted', 'all regions show the same']


def test_an_answer_that_is_a_bug(made: Made) -> None:
    with_500 = Operation(99, 1, 1, 2, 'name.find', {}, UNKNOWN, 500)
    made.history.add(with_500)
    assert made.broken() == ['an answer that says that it is a bug']


def test_a_history_is_read_as_it_was_written(tmp_path: Any) -> None:
    path = tmp_path / 'history'
    recorder = Recorder({'seed': 1, 'bound': BOUND}, path)
    recorder.operation(
        region=1, begin=1, end=2, kind='a.b', about={'c': 'd'}, outcome=OK
    )
    recorder.add(Fault('cut', 1, None, 1, 2, 3, 4))
    recorder.add(Settled(4, 5))
    recorder.close()
    with path.open() as file:
        assert History.load(file) == recorder.history


@pytest.mark.parametrize('plant', planted.PLANTS, ids=lambda x: x.name)
def test_what_is_planted_is_in_the_package(plant: planted.Plant) -> None:
    for each in plant.mutations:
        source = each.source(mutations.ROOT).read_text('utf-8')
        assert source.count(each.code) == 1


def test_a_table_names_what_was_found() -> None:
    common = {
        'seed': 3,
        'regions': [1, 1],
        'outcomes': {'ok': 4, 'unknown': 1},
        'faults': {'cut': 2, 'slow': 1},
    }
    written = table.text(
        [
            {**common, 'plant': '', 'violations': {}},
            {**common, 'plant': 'feed off', 'violations': {'E1 is found': 2}},
        ]
    )
    assert '     - cut (2), slow' in written
    assert '   * - feed off\n     - 3\n     - it is found (2)' in written
