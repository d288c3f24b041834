# SPDX-License-Identifier: Apache-2.0
"""How the benchmarks fill both systems."""

from lab.benchmark import fill


def test_portions_are_all_of_it() -> None:
    assert list(fill.portions(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(fill.portions([], 2)) == []
