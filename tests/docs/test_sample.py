# SPDX-License-Identifier: Apache-2.0
"""The sample of the configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import generator

from keystone_cassandra_token import conf

ROOT = Path(__file__).parents[2]


def test_the_sample_is_as_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    made = tmp_path / 'sample'
    generator.main(
        [
            '--config-file',
            'etc/config-generator.conf',
            '--output-file',
            str(made),
        ]
    )
    kept = Path('etc/keystone-cassandra.conf.sample')
    assert made.read_text() == kept.read_text(), (
        'run: oslo-config-generator --config-file etc/config-generator.conf'
    )
    for _, options in conf.list_opts():
        for option in options:
            assert f'#{option.name} =' in made.read_text()
