# SPDX-License-Identifier: Apache-2.0
"""The doctor while nodes hang or are gone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import command
import pytest
from lab.cassandra import Cluster
from lab.schema import quick_schema

from tests.conftest import FORGETFUL


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with Cluster.start(
        nodes=2,
        own=True,
        yaml={'auto_bootstrap': False},
        java_options=[FORGETFUL],
    ) as cluster:
        yield cluster


@pytest.fixture(scope='module')
def run(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> command.Command:
    """The command, with both nodes as contact points."""
    run = command.for_nodes(
        tmp_path_factory.mktemp('conf'),
        cluster.contact_points,
        cluster.port,
        'doctored',
    )
    quick_schema(command.configuration(run.path))
    return run


def _lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert 'Traceback' not in done.stderr
    lines = done.stdout.splitlines()
    for line in lines:
        # Nothing of Python's, and whole sentences.
        for text in ('Error(', 'Exception', 'LocationInfo', '?.', '..'):
            assert text not in line
        assert line.endswith(('.', '?')), line
    return lines


def _of(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if line[6:].startswith(f'{name}: ')]


def test_a_node_that_hangs_is_named_once(
    cluster: Cluster, run: command.Command
) -> None:
    hung = cluster.nodes[1]
    hung.pause()
    try:
        lines = _lines(run('doctor'))
    finally:
        hung.resume()
    assert _of(lines, 'connection') == [
        f'warn  connection: 1 of 2 nodes do not answer: {hung.address}.'
    ]
    # Neither is it asked again, nor is what follows from it told again.
    assert sum(hung.address in line for line in lines) == 1
    for name in 'revocation', 'windows':
        assert not _of(lines, name)
    assert _of(lines, 'contact_points') == [
        f'ok    contact_points: this cluster answers at'
        f' {cluster.nodes[0].address}.'
    ]
    (line,) = _of(lines, 'schema')
    assert line.startswith('FAIL  schema: could not be checked: ')
    assert all(cluster.nodes[0].address in x for x in _of(lines, 'clock'))


def test_nodes_that_all_hang_are_named(
    cluster: Cluster, run: command.Command
) -> None:
    for node in cluster.nodes:
        node.pause()
    try:
        done = run('doctor')
        applied = run('schema', 'apply')
    finally:
        for node in cluster.nodes:
            node.resume()
    (line,) = _of(_lines(done), 'connection')
    assert line.startswith('FAIL  connection: ')
    # Found before the driver has tried them, one after the other.
    assert 'The nodes hang, or a firewall' in line
    for node in cluster.nodes:
        assert node.address in line
        assert node.address in command.last_line(applied)


def test_a_node_that_is_gone_is_named(
    cluster: Cluster, run: command.Command
) -> None:
    cluster.nodes[1].kill()
    try:
        lines = _lines(run('doctor'))
    finally:
        cluster.nodes[1].start()
    (line,) = _of(lines, 'connection')
    assert line.endswith(f' do not answer: {cluster.nodes[1].address}.')
    assert not [x for x in _of(lines, 'contact_points') if 'ok' not in x[:6]]


def test_a_contact_point_of_another_cluster_is_named(
    cluster: Cluster, run: command.Command, tmp_path: Path
) -> None:
    with Cluster.start(
        own=True, port=cluster.port, java_options=[FORGETFUL]
    ) as other:
        mixed = command.for_nodes(
            tmp_path,
            [*cluster.contact_points, *other.contact_points],
            cluster.port,
            'doctored',
        )
        lines = _lines(mixed('doctor'))
    # Whichever it asked first, the rest is of another one.
    found = _of(lines, 'contact_points')
    assert found
    for line in found:
        assert line.startswith('FAIL  contact_points: 127.')
        assert 'is a node of another cluster, ' in line
