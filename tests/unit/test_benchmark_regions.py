# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of regions tells of what it was answered."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from lab.benchmark import report, table
from lab.benchmark.regions import cut, killed
from lab.benchmark.regions.killed import Sent
from lab.benchmark.regions.sites import NO_ANSWER, Answer, log_in
from lab.benchmark.regions.tally import Tally, brief, round_trips, span
from lab.regions import state_transfer


def test_a_time_has_the_unit_that_suits_it() -> None:
    assert brief(0.0123) == '12.3 ms'
    assert brief(0.9994) == '999 ms'
    assert brief(5.25) == '5.25 s'


def test_round_trips_are_what_the_network_adds_to_the_shortest() -> None:
    assert (
        round_trips([0.31, 0.23, 0.9], [0.03, 0.8], 100) == '310 ms, 2.0 RTT'
    )
    assert round_trips([0.02], [0.03], 100) == '20.0 ms, 0.0 RTT'


def test_a_span_has_the_median_and_both_ends() -> None:
    assert span([0.5]) == '0.50 s'
    assert span([3.0, 0.5, 1.0]) == '1.00 s (0.50 to 3.00)'


def test_a_line_has_a_cell_for_each_system() -> None:
    tally = Tally(report.Found())
    tally.tell('a', 'ended', 'cassandra', '1 s')
    tally.tell('b', 'made', 'cassandra', 'at once')
    tally.tell('b', 'made', 'galera', 'later')
    found = tally.table(['cassandra', 'galera'])
    assert len(found.headings) == 4
    assert found.lines == [
        ('a', 'ended', '1 s', '-'),
        ('b', 'made', 'at once', 'later'),
    ]


def test_times_are_kept_for_the_rows() -> None:
    found = report.Found(shown=False)
    assert Tally(found).keep('c. x', 'galera', [0.3, 0.1, 0.2], 100) == 0.2
    (row,) = report.rows('regions', found.measured)
    assert (row['operation'], row['size'], row['n']) == ('c. x', 100, 3)
    assert 'image' not in report.page('regions', found)
    assert 'list-table' not in report.page('regions', found)


def answer(seconds: float = 0.1, status: int = 200) -> Answer:
    return Answer(status, seconds)


def test_an_outage_is_no_refusal() -> None:
    assert answer(status=204).ok
    assert answer(status=401).refused
    for status in NO_ANSWER, 500, 503:
        assert not answer(status=status).ok
        assert not answer(status=status).refused


def test_a_token_is_asked_for_its_role() -> None:
    body = {'token': {'roles': [{'name': 'reader'}, {'name': 'member'}]}}
    assert answer()._replace(body=body).has_role()
    assert not Answer(404, 0.1, body).has_role()
    body['token']['roles'].pop()
    assert not answer()._replace(body=body).has_role()
    assert not answer()._replace(body={'token': {}}).has_role()


def test_a_log_in_has_a_scope_if_there_is_one() -> None:
    assert 'scope' not in log_in(('alice', 'hers'))['auth']
    scope = {'project': {'id': 'one'}}
    auth = log_in(('alice', 'hers'), scope)['auth']
    assert auth['scope'] == scope
    assert auth['identity']['password']['user']['name'] == 'alice'


def sent(*seconds: float, status: int = 200) -> list[Sent]:
    """Return answers that follow each other."""
    found, now = [], 0.0
    for each in seconds:
        found.append(Sent(now, answer(each, status)))
        now += each
    return found


def test_what_was_under_way_at_the_end_of_a_node_counts() -> None:
    before, after = killed.split(sent(1, 1, 1), 1.5)
    assert [each.began for each in before] == [0]
    assert [each.began for each in after] == [1, 2]


@pytest.mark.parametrize(
    ('after', 'steady'),
    [
        (sent(*[0.1] * 39), False),
        (sent(*[0.1] * 40), True),
        (sent(5, *[0.1] * 40), True),
        (sent(*[0.1] * 39, 0.4), False),
        (sent(*[0.1] * 40, status=503), False),
        (sent(*[9] * 400), True),
    ],
)
def test_a_loop_is_steady_once_it_is_as_before(
    after: Sequence[Sent], steady: bool
) -> None:
    assert killed.is_steady(sent(0.1, 0.1), after) is steady


def test_the_longest_answer_and_the_errors_are_told() -> None:
    after = [*sent(5.25, 0.2), *sent(0.1, status=503)]
    assert killed.told(sent(0.1), after) == (
        'longest 5.25 s (before 100 ms), 1 errors of 3'
    )


def test_an_outcome_has_its_status_and_its_time() -> None:
    assert cut.outcome(answer(5.05, 503)) == '503 in 5.05 s'
    assert cut.outcome(answer(60, NO_ANSWER)) == 'no answer in 60.0 s'
    given = [answer(), answer(0.2, 500), answer(0.4, NO_ANSWER)]
    assert cut.failure(given) == 'no answer, 500 in 300 ms'


def test_parts_are_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.arguments(['regions']).parts == 'abcdefg'
    assert table.arguments(['regions', '--parts', 'ge']).parts == 'ge'
    for wrong in 'x', '':
        with pytest.raises(SystemExit):
            table.arguments(['regions', '--parts', wrong])


def test_a_joiner_is_told_by_its_donor_where_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gtid = '51e64901-3e89-499f-aa18-7ddb9e46544c:7'
    with state_transfer.listening('127.0.0.1:0') as server:
        address = f'127.0.0.1:{server.getsockname()[1]}/'
        donor = ['--role', 'donor', '--address', address, '--gtid', gtid]
        assert (
            state_transfer.main([*donor, '--bypass', '--progress', '0']) == 0
        )
        state_transfer.join(server)
    ready, done, told = capsys.readouterr().out.splitlines()
    assert ready == f'ready {address}'
    assert (done, told) == (f'done {gtid}', gtid)
    assert state_transfer.main(donor) == 1
