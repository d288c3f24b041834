# SPDX-License-Identifier: Apache-2.0
"""The consistency policy and its violations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pytest
from cassandra import ConsistencyLevel
from hypothesis import given, settings
from hypothesis import strategies as st

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db.consistency import (
    CONDITIONAL,
    Level,
    Operation,
    Policy,
    overlaps,
    quorum,
)
from keystone_cassandra_token.db.findings import State

LEVELS = ('LOCAL_ONE', 'LOCAL_QUORUM', 'EACH_QUORUM', 'QUORUM', 'ALL')
DEFAULTS = {opt.dest: opt.default for opt in options.consistency_opts}

OPTION_OF = {
    Operation.TOKEN_READ: 'token_read_consistency',
    Operation.TOKEN_WRITE: 'token_write_consistency',
    Operation.REVOCATION_READ: 'revocation_read_consistency',
    Operation.REVOCATION_WRITE: 'revocation_write_consistency',
    Operation.READ: 'read_consistency',
    Operation.WRITE: 'write_consistency',
}


def policy(**values) -> Policy:
    return Policy(DEFAULTS | values)


def findings(replication, **values) -> list[tuple[bool, str]]:
    return [
        (finding.state is State.FAIL, finding.text)
        for finding in policy(**values).violations(replication)
    ]


@pytest.mark.parametrize(
    ('operation', 'level'),
    [
        *((operation, Level('LOCAL_QUORUM')) for operation in OPTION_OF),
        (Operation.LWT_GLOBAL, Level('LOCAL_QUORUM', 'SERIAL')),
        (Operation.LWT_LOCAL, Level('LOCAL_QUORUM', 'LOCAL_SERIAL')),
        (Operation.LWT_GLOBAL_READ, Level('SERIAL')),
        (Operation.LWT_LOCAL_READ, Level('LOCAL_SERIAL')),
        (Operation.ESCALATED_READ, Level('EACH_QUORUM')),
        (Operation.SCHEMA, Level('LOCAL_QUORUM', 'SERIAL')),
    ],
)
def test_levels_by_default(operation, level) -> None:
    assert policy().level(operation) == level


def test_every_class_has_a_level_that_the_driver_knows() -> None:
    for operation in Operation:
        level = policy().level(operation)
        assert level.consistency in ConsistencyLevel.name_to_value
        assert bool(level.serial) is (
            operation in CONDITIONAL or operation is Operation.SCHEMA
        )


@pytest.mark.parametrize('operation', OPTION_OF)
@pytest.mark.parametrize('level', LEVELS)
def test_one_option_sets_one_class(operation, level) -> None:
    changed = policy(**{OPTION_OF[operation]: level})
    assert changed.level(operation) == Level(level)
    for other in OPTION_OF:
        if other is not operation:
            assert changed.level(other) == Level('LOCAL_QUORUM')


def test_the_commit_of_conditional_writes_follows_write_consistency() -> None:
    changed = policy(write_consistency='EACH_QUORUM')
    assert changed.level(Operation.LWT_GLOBAL) == Level(
        'EACH_QUORUM', 'SERIAL'
    )
    assert changed.level(Operation.LWT_LOCAL) == Level(
        'EACH_QUORUM', 'LOCAL_SERIAL'
    )


def test_a_settling_read_is_of_the_level_of_what_it_settles() -> None:
    changed = policy(
        global_serial_consistency='LOCAL_SERIAL',
        local_serial_consistency='SERIAL',
    )
    assert changed.level(Operation.LWT_GLOBAL).serial == 'LOCAL_SERIAL'
    assert changed.level(Operation.LWT_GLOBAL_READ) == Level('LOCAL_SERIAL')
    assert changed.level(Operation.LWT_LOCAL).serial == 'SERIAL'
    assert changed.level(Operation.LWT_LOCAL_READ) == Level('SERIAL')


def test_only_strict_revocations_have_a_fallback() -> None:
    strict = policy(
        **dict.fromkeys(OPTION_OF.values(), 'EACH_QUORUM'),
    )
    for operation in Operation:
        expected = (
            Level('LOCAL_QUORUM')
            if operation is Operation.REVOCATION_WRITE
            else None
        )
        assert strict.fallback(operation) == expected
        assert policy().fallback(operation) is None


def test_description_names_all_classes() -> None:
    described = dict(policy().describe())
    assert described.keys() == {operation.value for operation in Operation}
    assert described['lwt_global'] == 'LOCAL_QUORUM, agreed on at SERIAL'


@pytest.mark.parametrize(
    'replication', [{'dc1': 3}, {'dc1': 3, 'dc2': 3}, {'a': 3, 'b': 5, 'c': 3}]
)
def test_the_defaults_are_sound_with_three_replicas(replication) -> None:
    assert findings(replication) == []


@pytest.mark.parametrize(
    ('replicas', 'word'), [(1, 'one replica'), (2, 'two replicas')]
)
def test_few_replicas_are_warned_of_and_served(replicas, word) -> None:
    found = findings({'dc1': 3, 'dc2': replicas})
    assert len(found) == 1
    fatal, text = found[0]
    assert not fatal
    assert 'dc2' in text
    assert word in text


def test_no_replication_by_datacenter_is_fatal() -> None:
    ((fatal, text),) = findings({})
    assert fatal
    assert 'NetworkTopologyStrategy' in text


READS = [name for name in OPTION_OF.values() if '_write' not in name]
READS.remove('write_consistency')


@pytest.mark.parametrize('option', READS)
def test_local_one_is_refused_unless_accepted(option) -> None:
    found = findings({'dc1': 3}, **{option: 'LOCAL_ONE'})
    assert all(fatal for fatal, _ in found)
    assert any('accept_local_one' in text for _, text in found)
    assert all(f'[cassandra] {option} ' in text for _, text in found)
    assert (
        findings({'dc1': 3}, **{option: 'LOCAL_ONE'}, accept_local_one=True)
        == []
    )


@pytest.mark.parametrize('replicas', [1, 2, 3])
def test_local_one_is_refused_whatever_the_replicas(replicas) -> None:
    found = findings({'dc1': replicas}, read_consistency='LOCAL_ONE')
    assert any(fatal for fatal, _ in found)


@pytest.mark.parametrize(
    ('reader', 'writer'),
    [
        ('token_read_consistency', 'token_write_consistency'),
        ('revocation_read_consistency', 'revocation_write_consistency'),
        ('read_consistency', 'write_consistency'),
    ],
)
def test_a_pair_that_does_not_overlap_is_fatal_in_each_datacenter(
    reader, writer
) -> None:
    # A quorum of all nine may be made of six that are elsewhere.
    replication = {'dc1': 3, 'dc2': 3, 'dc3': 3}
    found = findings(replication, **{reader: 'LOCAL_QUORUM', writer: 'QUORUM'})
    assert [fatal for fatal, _ in found] == [True] * 3
    for (_, text), datacenter in zip(found, replication, strict=True):
        assert f'In datacenter {datacenter},' in text
        assert f'{reader} = LOCAL_QUORUM' in text
        assert f'{writer} = QUORUM' in text
    for level in ('LOCAL_QUORUM', 'EACH_QUORUM', 'ALL'):
        assert (
            findings(replication, **{reader: 'LOCAL_QUORUM', writer: level})
            == []
        )


def test_local_claims_over_several_datacenters_are_warned_of() -> None:
    values = {'global_serial_consistency': 'LOCAL_SERIAL'}
    assert findings({'dc1': 3}, **values) == []
    ((fatal, text),) = findings({'dc1': 3, 'dc2': 3}, **values)
    assert not fatal
    assert 'global_serial_consistency' in text


@pytest.mark.parametrize(
    ('replicas', 'needed'), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)]
)
def test_quorum(replicas, needed) -> None:
    assert quorum(replicas) == needed


def answers(
    level: str, datacenter: str, replication: Mapping[str, int]
) -> Iterator[frozenset[tuple[str, int]]]:
    """Yield each smallest set of replicas that satisfies a level.

    The plain model: it takes Cassandra's definition of each level and tries
    all sets.
    """
    replicas = {
        name: [(name, number) for number in range(count)]
        for name, count in replication.items()
    }
    everywhere = list(itertools.chain.from_iterable(replicas.values()))
    if level == 'LOCAL_ONE':
        chosen = itertools.combinations(replicas[datacenter], 1)
    elif level == 'LOCAL_QUORUM':
        local = replicas[datacenter]
        chosen = itertools.combinations(local, len(local) // 2 + 1)
    elif level == 'EACH_QUORUM':
        chosen = (
            tuple(itertools.chain.from_iterable(parts))
            for parts in itertools.product(
                *(
                    list(itertools.combinations(some, len(some) // 2 + 1))
                    for some in replicas.values()
                )
            )
        )
    elif level == 'QUORUM':
        chosen = itertools.combinations(everywhere, len(everywhere) // 2 + 1)
    else:
        chosen = iter([tuple(everywhere)])
    return map(frozenset, chosen)


@settings(max_examples=300, deadline=None)
@given(
    read=st.sampled_from(LEVELS),
    write=st.sampled_from(LEVELS),
    replication=st.dictionaries(
        st.sampled_from(['a', 'b', 'c']), st.integers(1, 4), min_size=1
    ).filter(lambda counts: sum(counts.values()) <= 7),
    data=st.data(),
)
def test_overlap_is_what_all_sets_of_replicas_say(
    read, write, replication, data
) -> None:
    datacenter = data.draw(st.sampled_from(sorted(replication)))
    writes = list(answers(write, datacenter, replication))
    meets = all(
        some & other
        for some in answers(read, datacenter, replication)
        for other in writes
    )
    assert overlaps(read, write, datacenter, replication) is meets


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match='TWO'):
        overlaps('TWO', 'ALL', 'a', {'a': 3})


def test_a_datacenter_without_replicas_is_told_so() -> None:
    replication = {'dc1': 3}
    assert not list(policy().violations(replication, 'dc1'))
    (found,) = policy().violations(replication, 'dc2')
    assert found.state is State.FAIL
    assert 'no replica in datacenter dc2' in found.text
    assert 'local_dc' in found.text
