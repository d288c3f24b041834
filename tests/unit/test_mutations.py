# SPDX-License-Identifier: Apache-2.0
"""The list of guards says what is there."""

from __future__ import annotations

from tests import mutations, sweep
from tests.mutation import Mutation


@sweep.over(mutations.MUTATIONS)
def test_a_guard_is_there_once(mutation: Mutation) -> None:
    source = mutation.source(mutations.ROOT).read_text('utf-8')
    assert source.count(mutation.code) == 1
    files = [each for each in mutation.tests.split() if each.endswith('.py')]
    assert files
    assert all((mutations.ROOT / each).is_file() for each in files)
