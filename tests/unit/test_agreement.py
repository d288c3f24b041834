# SPDX-License-Identifier: Apache-2.0
"""How long a request waits for other regions, and when it does not."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cassandra
import cassandra.policies
import flask
import pytest

from keystone_cassandra_token.db import (
    agreement,
    balancing,
    connection,
    consistency,
    cql,
    deadline,
    errors,
    parts,
)
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import trust

from . import ddl

WAIT = 2.0
DEADLINE = 100.0
KEY = {'id': 't'}
CHANGE: dict[str, Any] = {**KEY, 'seen': 2, 'left': 1, 'attempt': uuid.uuid4()}

CLAIM, LOOK, READ = trust.CONSUME, trust.SETTLE_USE, trust.GET_EVERYWHERE

#: What a node says while others that it needs are away.
UNAVAILABLE = cassandra.Unavailable(
    '', consistency=8, required_replicas=4, alive_replicas=3
)
SILENT = cassandra.OperationTimedOut(last_host='node')


class Rows(list[dict[str, Any]]):
    def one(self) -> dict[str, Any]:
        return dict(self[0])


APPLIED = Rows([{'[applied]': True}])
REFUSED = Rows([{'[applied]': False, 'remaining': 1}])


@dataclasses.dataclass
class Sent:
    """A request: its statement, and the seconds that it was given."""

    statement: cql.Statement
    seconds: float


class Balancing(balancing.SlowLast):
    """Notes which nodes are asked last."""

    def __init__(self) -> None:
        super().__init__(cassandra.policies.RoundRobinPolicy())
        self.last: set[Any] = set()

    def is_slow(self, host: Any) -> None:
        super().is_slow(host)
        self.last.add(host)

    def excuse(self, hosts: Iterable[Any]) -> None:
        self.last -= {*hosts}
        super().excuse(hosts)


class Bench:
    """A store, with a session that answers as it is told.

    :ivar now: the time.
    :ivar sent: the requests.
    :ivar answers: to each statement; a list is used up one by one.
    """

    def __init__(self, conf: Any, replication: dict[str, int]) -> None:
        self.now = 1000.0
        self.sent: list[Sent] = []
        self.answers: dict[cql.Statement, Any] = {}
        self.store = Store(conf)
        self.balancing = Balancing()
        self.store.sessions.current = connection.Connection(
            pid=os.getpid(),
            cluster=types.SimpleNamespace(
                profile_manager=types.SimpleNamespace(profiles={}),
                shutdown=lambda: None,
            ),
            session=self,
            policy=consistency.Policy(conf.cassandra),
            keyspace='ks',
            local_dc='dc1',
            prepared={},
            replication=replication,
            balancing=self.balancing,
            timeout=DEADLINE,
            deadline=DEADLINE,
        )
        self._statements = {
            each.text('ks'): each for each in (CLAIM, LOOK, READ)
        }

    def prepare(self, text: str) -> Any:
        return ddl.prepared(
            self._statements[text], seen='int', left='int', attempt='uuid'
        )

    def get_pools(self) -> list[Any]:
        return [types.SimpleNamespace(is_shutdown=False)]

    def execute_async(self, query: Any, timeout: float, **_: object) -> Any:
        statement = self._statements[query.prepared_statement.query_string]
        self.sent.append(Sent(statement, timeout))
        answer = self.answers.get(statement, SILENT)
        if isinstance(answer, list) and not isinstance(answer, Rows):
            answer = answer.pop(0)

        def result() -> Any:
            if answer is SILENT:
                self.now += timeout
            if isinstance(answer, Exception):
                raise answer
            return answer

        return types.SimpleNamespace(result=result)

    def claim(self) -> None:
        """Change what all regions must agree on."""
        assert self.store.cas_settled(
            CLAIM,
            LOOK,
            lambda row: None if row is None else True,
            **CHANGE,
        )

    def read(self) -> None:
        self.store.rows(READ, trust.TRUST, **KEY)

    def refused(self, call: Callable[[], object]) -> list[Sent]:
        """Return what a call has sent that ends with 503."""
        before = len(self.sent)
        with pytest.raises(errors.StoreUnavailable):
            call()
        return self.sent[before:]


Make = Callable[..., Bench]


@pytest.fixture
def make(make_conf: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        replication = options.pop('replication', {'dc1': 3, 'dc2': 3})
        options = {'claim_wait': WAIT} | options
        bench = Bench(make_conf(**options), replication)
        made.append(bench)
        monkeypatch.setattr(time, 'monotonic', lambda: bench.now)
        return bench

    yield make
    for bench in made:
        # What is sampled of open sessions is none of it.
        bench.store.sessions.current = None


def statements(sent: list[Sent]) -> list[cql.Statement]:
    return [each.statement for each in sent]


def total(sent: list[Sent]) -> float:
    return sum(each.seconds for each in sent)


def test_a_claim_that_is_not_answered_takes_its_wait_and_no_more(
    make: Make,
) -> None:
    bench = make()
    with deadline.of_request(DEADLINE):
        sent = bench.refused(bench.claim)
    assert statements(sent) == [CLAIM, LOOK]
    assert sent[0].seconds == pytest.approx(WAIT * agreement.FIRST)
    assert total(sent) == pytest.approx(WAIT)


def test_a_read_that_is_not_answered_is_sent_to_another_node(
    make: Make,
) -> None:
    bench = make()
    with deadline.of_request(DEADLINE):
        sent = bench.refused(bench.read)
    assert statements(sent) == [READ, READ]
    assert total(sent) == pytest.approx(WAIT)


def test_what_comes_after_it_is_not_sent(make: Make, monkeypatch) -> None:
    """Such as what frees the names that were claimed before."""
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    bench = make()
    with deadline.of_request(DEADLINE):
        bench.refused(bench.claim)
        assert bench.refused(bench.claim) == []
        assert bench.refused(bench.read) == []
    # Another request has a wait of its own.
    with deadline.of_request(DEADLINE):
        assert total(bench.refused(bench.claim)) == pytest.approx(WAIT)


def test_each_answer_begins_it_anew(make: Make) -> None:
    bench = make()
    bench.answers[CLAIM] = [APPLIED, SILENT, APPLIED, SILENT]
    bench.answers[LOOK] = [Rows([{}]), SILENT]
    with deadline.of_request(DEADLINE):
        bench.claim()
        bench.now += DEADLINE / 10
        # The look tells.
        bench.claim()
        bench.claim()
        sent = bench.refused(bench.claim)
    assert total(sent) == pytest.approx(WAIT)


def test_a_node_that_hangs_costs_a_part_of_it(make: Make) -> None:
    """A look that another one answers says that nothing was done."""
    bench = make()
    bench.answers[CLAIM] = [SILENT, APPLIED]
    bench.answers[LOOK] = Rows()
    with deadline.of_request(DEADLINE):
        bench.claim()
    assert statements(bench.sent) == [CLAIM, LOOK, CLAIM]
    # It is asked last from now on; nothing is refused.
    assert bench.balancing.last == {'node'}
    with deadline.of_request(DEADLINE):
        bench.answers[CLAIM] = APPLIED
        bench.claim()


def test_several_at_once_share_it(make: Make) -> None:
    bench = make()
    with deadline.of_request(DEADLINE):
        began = bench.now
        keys = [{'id': str(each)} for each in range(3)]
        bench.refused(lambda: bench.store.many(READ, trust.TRUST, keys))
        assert bench.now - began == pytest.approx(WAIT)


def test_a_request_that_follows_fails_at_once(make: Make) -> None:
    bench = make()
    for call in bench.claim, bench.read:
        with deadline.of_request(DEADLINE):
            assert bench.refused(call)
        with deadline.of_request(DEADLINE):
            assert bench.refused(call) == []
    bench.now += agreement.HOLDS + 1
    with deadline.of_request(DEADLINE):
        assert statements(bench.refused(bench.claim)) == [CLAIM, LOOK]


def test_one_request_tries_again_and_ends_it(make: Make) -> None:
    bench = make()
    with deadline.of_request(DEADLINE):
        bench.refused(bench.claim)
    bench.now += agreement.HOLDS
    tried: list[list[Sent]] = []

    def another() -> None:
        with deadline.of_request(DEADLINE):
            tried.append(bench.refused(bench.claim))

    def answer(*_: object, **__: object) -> Any:
        # While this one waits.
        bench.store.interceptors = ()
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
        return Done()

    class Done:
        def result(self) -> Rows:
            return APPLIED

    bench.store.interceptors = (answer,)
    with deadline.of_request(DEADLINE):
        bench.claim()
    assert tried == [[]]
    # Now that it was answered, all others try, too.
    before = len(bench.sent)
    thread = threading.Thread(target=another)
    thread.start()
    thread.join()
    assert statements(bench.sent[before:]) == [CLAIM, LOOK]


@pytest.mark.parametrize('error', [UNAVAILABLE, SILENT])
def test_what_needs_each_region_says_nothing_of_what_needs_most(
    make: Make, error: Exception
) -> None:
    """One of three is away; the other two agree."""
    bench = make(replication={'dc1': 3, 'dc2': 3, 'dc3': 3})
    bench.answers |= {READ: error, CLAIM: APPLIED}
    for _ in range(2):
        with deadline.of_request(DEADLINE):
            bench.refused(bench.read)
        with deadline.of_request(DEADLINE):
            bench.claim()
    # The second read was not sent.
    assert statements(bench.sent).count(CLAIM) == 2
    assert total([x for x in bench.sent if x.statement is READ]) <= WAIT


def test_what_a_node_says_is_enough(make: Make) -> None:
    bench = make()
    bench.answers |= {CLAIM: UNAVAILABLE, LOOK: UNAVAILABLE}
    with deadline.of_request(DEADLINE):
        assert bench.refused(bench.claim)
    with deadline.of_request(DEADLINE):
        assert bench.refused(bench.claim) == []


def test_nodes_that_waited_for_others_are_not_avoided(make: Make) -> None:
    bench = make()
    with deadline.of_request(DEADLINE):
        bench.refused(bench.claim)
    assert not bench.balancing.last


@pytest.mark.parametrize(
    'options',
    [
        {'replication': {'dc1': 3}},
        {'global_serial_consistency': 'LOCAL_SERIAL'},
    ],
)
def test_what_one_region_decides_has_the_time_of_any(
    make: Make, options: dict[str, Any]
) -> None:
    bench = make(**options)
    with deadline.of_request(DEADLINE):
        sent = bench.refused(bench.claim)
        assert sent[0].seconds == DEADLINE / 2
    bench.now += DEADLINE
    with deadline.of_request(DEADLINE):
        assert bench.refused(bench.claim)


def test_who_serves_no_client_has_time(make: Make) -> None:
    """Commands, and threads of servers, which have an end of their own."""
    bench = make()
    for _ in range(2):
        assert bench.refused(bench.claim)[0].seconds == DEADLINE
        with deadline.within(DEADLINE):
            assert bench.refused(bench.claim)[0].seconds == DEADLINE / 2
        bench.now += DEADLINE
    # Nor do clients hear of it.
    bench.answers[CLAIM] = APPLIED
    with deadline.of_request(DEADLINE):
        bench.claim()


def test_a_request_of_keystone_without_the_filter(make: Make) -> None:
    bench = make()
    app = flask.Flask(__name__)
    for _ in range(2):
        with app.test_request_context():
            sent = bench.refused(bench.claim)
            assert total(sent) == pytest.approx(WAIT)
            assert bench.refused(bench.claim) == []
        bench.now += agreement.HOLDS


def test_parts_side_by_side_wait_as_the_request_does(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    first = threading.Event()
    sent: list[Sent] = []

    def part(store: Store, number: int) -> None:
        if number:
            assert first.wait(60)
            return
        try:
            sent.extend(bench.refused(bench.claim))
        finally:
            first.set()

    some = range(parts.FEW + 1)
    with deadline.of_request(DEADLINE):
        parts.each(bench.store, part, some)
    assert total(sent) == pytest.approx(WAIT)
    # Of a command's, too.
    monkeypatch.setattr(agreement, 'HOLDS', 0.0)
    sent.clear()
    first.clear()
    parts.each(bench.store, part, some)
    assert total(sent) > WAIT


def test_the_reason_names_the_option(make: Make) -> None:
    bench = make()
    for _ in range(2):
        with (
            deadline.of_request(DEADLINE),
            pytest.raises(errors.StoreUnavailable) as caught,
        ):
            bench.claim()
        assert '[cassandra] claim_wait' in caught.value.reason
        assert 'request_timeout' not in caught.value.reason
    bench = make(claim_wait=60.0)
    with (
        deadline.of_request(4.0),
        pytest.raises(errors.StoreUnavailable) as caught,
    ):
        bench.claim()
    assert 'claim_wait' not in caught.value.reason
