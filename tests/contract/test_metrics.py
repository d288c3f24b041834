# SPDX-License-Identifier: Apache-2.0
"""Metrics and spans of a real store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystone import exception
from osprofiler import notifier, profiler

from keystone_cassandra_token import revocation_ttl
from keystone_cassandra_token.cmd import metrics as served
from keystone_cassandra_token.db import clock, metrics
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers.token import provider as token
from keystone_cassandra_token.tables.unique import (
    STALE_AFTER,
    Claims,
    NameTaken,
)
from tests.fault import faults

CLAIMS = Claims('role_claim', 'folded_name', 'domain_id')


@pytest.fixture
def counted(store: Store, tmp_path: Path) -> Iterator[Any]:
    """What was counted: sum of a metric's samples with these labels."""
    metrics.start(str(tmp_path))

    class Silent:
        values: dict[Any, float] = {}

    status: Any = Silent()
    collector = served.Collector(str(tmp_path), status)

    def found(name: str, **labels: str) -> float:
        metrics.current.flush()
        return sum(
            sample.value
            for family in collector.collect()
            for sample in family.samples
            if sample.name == metrics.PREFIX + name
            and labels.items() <= sample.labels.items()
        )

    yield found
    assert metrics.current.on, 'nothing went wrong meanwhile'
    metrics.start(None)


def test_requests_are_counted_by_what_they_do(
    store: Store, counted: Any
) -> None:
    ttl = revocation_ttl.RevocationTTL(store)
    with faults.counted(store) as sent:
        ttl.current()
    labels = {
        'operation': 'revocation_read',
        'table': 'schema_setting',
        'verb': 'SELECT',
        'outcome': 'ok',
    }
    # One, or two where no revocation was made before.
    assert counted('request_seconds_count', **labels) == len(sent) > 0
    assert counted('request_seconds_count') == len(sent)
    assert 0 < counted('request_seconds_sum', **labels) < 5
    assert counted('requests_in_progress') == 0
    assert counted('connections') >= 1


def test_tokens(store: Store, counted: Any) -> None:
    with pytest.raises(exception.TokenNotFound):
        token.Provider().validate_token(token.PREFIX + 'A' * 43)
    assert counted('tokens_total', result='missing') == 1


class Nobody:
    """Owners of claims that have none of the names."""

    def has(self, db: Store, owner: str, key: Any) -> bool:
        return False

    def fence(self, db: Store, owner: str) -> None:
        pass


NOBODY = Nobody()


def test_claims(
    store: Store, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {'folded_name': uuid.uuid4().hex, 'domain_id': 'default'}

    def claim(owner: str) -> None:
        CLAIMS.take(store, owner, key, NOBODY)

    claim('a')
    claim('a')
    with pytest.raises(NameTaken):
        claim('b')
    real = clock.utcnow
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + 2 * STALE_AFTER)
    claim('b')

    def result(name: str) -> float:
        return float(counted('claims_total', table='role_claim', result=name))

    assert [result(n) for n in ('made', 'taken', 'taken_over')] == [1, 1, 1]
    writes = 'conditional_writes_total'
    assert counted(writes, table='role_claim', result='applied') == 3
    assert counted(writes, table='role_claim', result='refused') == 3


def test_status(store: Store, counted: Any) -> None:
    """What the command asks by itself."""
    status = served.Status(store.conf)
    try:
        found = {
            (metric.name, *labels): value
            for (metric, labels), value in status.ask().items()
        }
        again = status.ask()
    finally:
        status.stop()
    for question in served.QUESTIONS:
        assert found['answered', question] == 1
        assert again[served.ANSWERED, (question,)] == 1
    assert found['schema_version',] == found['schema_version_needed',]
    assert found['clock_skew_seconds',] < 5
    assert found['claim_probe_seconds',] < 5
    assert found['revocation_ttl_seconds',] >= 0


@pytest.fixture
def spans() -> Iterator[list[dict[str, Any]]]:
    """What osprofiler was told in this thread, by a trace under way."""
    found: list[dict[str, Any]] = []
    before = notifier.get()
    notifier.set(lambda info, **_: found.append(info))
    profiler.init('an HMAC key')
    try:
        yield found
    finally:
        profiler.clean()
        notifier.set(before)


def test_spans_say_what_and_no_value(
    store: Store, spans: list[dict[str, Any]]
) -> None:
    owner, name = uuid.uuid4().hex, uuid.uuid4().hex
    key = {'folded_name': name, 'domain_id': 'default'}
    CLAIMS.take(store, owner, key, NOBODY)
    assert CLAIMS.owner(store, **key) == owner
    assert [span['name'] for span in spans] == [
        'cassandra-start',
        'cassandra-stop',
    ] * 2
    write, read = spans[0]['info']['db'], spans[2]['info']['db']
    assert write == {
        'operation': Operation.LWT_GLOBAL.value,
        'table': 'role_claim',
        'verb': 'INSERT',
        'level': 'LOCAL_QUORUM',
        'serial_level': 'SERIAL',
    }
    assert read['verb'] == 'SELECT'
    assert read['level'] == 'LOCAL_QUORUM'
    assert {s['info']['db']['outcome'] for s in spans[1::2]} == {'ok'}
    for value in (owner, name):
        assert value not in json.dumps(spans)


def test_several_at_once_are_spans_beside_each_other(
    store: Store, spans: list[dict[str, Any]]
) -> None:
    parent = profiler.get().get_id()
    ttl = revocation_ttl.RevocationTTL(store)
    for future in [ttl.current_async()[1] for _ in range(3)]:
        future.result()
    assert [span['parent_id'] for span in spans] == [parent] * 6
    assert len({span['trace_id'] for span in spans}) == 3


def test_without_a_trace_nothing_is_told(
    store: Store, spans: list[dict[str, Any]]
) -> None:
    profiler.clean()
    revocation_ttl.RevocationTTL(store).current()
    assert spans == []
