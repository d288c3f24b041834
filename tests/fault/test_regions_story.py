# SPDX-License-Identifier: Apache-2.0
"""Two regions, one of which is cut off and comes back, as the demo tells it.

Each with Cassandra, a Keystone and a cache, in a network of its own; it fails
where a step is not as expected.
"""

from __future__ import annotations

import pytest
from lab.narration import Narrator
from lab.regions import namespaces, story


def test_all_goes_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        namespaces.Namespace('10.77.1.254', []).close()
    except namespaces.NotAllowed as error:
        pytest.skip(str(error))
    story.tell(2, Narrator())
    said = capsys.readouterr().out
    assert said.count('   ok ') == 9
    assert 'All 4 steps went as expected.' in said
