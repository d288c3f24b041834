# SPDX-License-Identifier: Apache-2.0
"""What the table of waits says of what requests were answered."""

from __future__ import annotations

import pytest
from lab.benchmark import table, waits
from lab.benchmark.regions.sites import NO_ANSWER, Answer
from lab.benchmark.waits import cells
from lab.benchmark.waits.cells import Usual
from lab.benchmark.waits.operations import OPERATIONS

#: Of what waits for two round trips.
USUAL = Usual(at_once=0.04, seconds=0.25, rtt_ms=100)
LOCAL = Usual(at_once=0.04, seconds=0.05, rtt_ms=100)


def ok(seconds: float) -> Answer:
    return Answer(200, seconds)


def failed(seconds: float, status: int = 503) -> Answer:
    return Answer(status, seconds)


@pytest.mark.parametrize(
    ('usual', 'answer', 'said'),
    [
        (LOCAL, ok(0.03), 'here'),
        (LOCAL, ok(0.05), 'here'),
        # A busy machine makes no round trip.
        (LOCAL, ok(0.2), 'here'),
        (LOCAL, ok(0.25), 'done after 0.2 s'),
        (USUAL, ok(0.25), '2 round trips'),
        (USUAL, ok(0.13), '1 round trip'),
        # What need not wait any more.
        (USUAL, ok(0.05), 'here'),
        (USUAL, ok(0.44), '2 round trips'),
        (USUAL, ok(1.04), 'done after 1.0 s'),
        (USUAL, failed(0.05), '503 at once'),
        (USUAL, failed(1.06), '503 after 1.1 s'),
        (USUAL, failed(60, NO_ANSWER), 'no answer after 60.0 s'),
        (USUAL, failed(0.05, 409), '409 at once'),
    ],
)
def test_an_answer_is_told_by_what_it_waited_for(
    usual: Usual, answer: Answer, said: str
) -> None:
    assert usual.told(answer) == said


def test_answers_that_follow_each_other_are_told_in_order() -> None:
    assert cells.in_order(USUAL, [failed(1.06), failed(0.05)]) == (
        '503 after 1.1 s, then 503 at once'
    )
    assert cells.in_order(USUAL, [ok(0.26), ok(0.25)]) == '2 round trips'
    # A moment more is no other answer.
    assert cells.in_order(USUAL, [failed(1.14), failed(1.02)]) == (
        '503 after 1.1 s'
    )
    assert cells.in_order(USUAL, [ok(1.1), failed(1.1)]) == (
        'done after 1.1 s, then 503 after 1.1 s'
    )
    assert cells.in_order(USUAL, [failed(1.1), failed(1.9)]) == (
        '503 after 1.1 s, then 503 after 1.9 s'
    )


def test_a_round_trip_more_is_told_of_no_other_answer() -> None:
    answers = [ok(0.25), ok(0.13)]
    assert cells.shortest(USUAL, answers) == '1 round trip'
    assert cells.pooled(USUAL, answers) == '1 round trip'


def test_others_are_told_beside_the_shortest() -> None:
    assert cells.pooled(USUAL, [ok(0.3), ok(0.25)]) == '2 round trips'
    answers = [ok(0.9), ok(0.25), ok(0.6), ok(0.25)]
    assert (
        cells.pooled(USUAL, answers) == '2 round trips; 2 of 4: done after'
        ' 0.9 s'
    )
    # An error is worse than any wait.
    answers = [failed(0.05), ok(0.9), ok(0.25)]
    assert cells.pooled(USUAL, answers) == '2 round trips; 2 of 3: 503 at once'
    assert cells.pooled(USUAL, [failed(0.05)]) == '503 at once'
    assert cells.pooled(USUAL, [failed(2.4), failed(2.3)]) == (
        '503 after 2.3 s'
    )


def test_a_state_that_was_not_measured_has_a_dash() -> None:
    first, *_ = OPERATIONS
    found = waits.table({first: {waits.CUT_OFF: 'here'}})
    assert found.headings == ('what', 'operation', *waits.STATES)
    assert found.lines == [
        (first.kind, first.name, '-', '-', '-', 'here', '-', '-')
    ]


def test_each_operation_is_told_once() -> None:
    names = [(each.kind, each.name) for each in OPERATIONS]
    assert len(names) == len(set(names))


def test_there_are_two_regions_at_least(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert table.arguments(['waits']).regions == 3
    with pytest.raises(SystemExit):
        table.arguments(['waits', '--regions', '1'])
    assert 'no number of 2 or more' in capsys.readouterr().err
