# SPDX-License-Identifier: Apache-2.0
"""Whether this server gives a conditional write up before Cassandra does.

What a node is still at work on when its client has given up can be made later
than the client was told.  That is not lost (fences make it impossible before
anything is undone), but it costs: 503, or a second round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

#: Settings of a node that bound a conditional write, and their former names.
_BOUNDS = (
    ('write_request_timeout', 'write_request_timeout_in_ms'),
    ('cas_contention_timeout', 'cas_contention_timeout_in_ms'),
)
_UNITS = {'': 0.001, 'ms': 0.001, 's': 1.0, 'm': 60.0}


def shorter(
    section: Mapping[str, Any], setting: Callable[..., str | None]
) -> str | None:
    """Return what to do if this server gives up before a node, or None.

    :param section: the options of ``[cassandra]``.
    :param setting: returns the first of a node's settings that is set, as
        :func:`.nodes.setting`.
    """
    # A first try has half of what is left of a request.
    ours = min(section['request_timeout'], section['request_deadline'] / 2)
    for names in _BOUNDS:
        theirs = _seconds(setting(*names))
        if theirs > ours:
            return (
                f'a conditional write is given up after {ours:g} s, and'
                f' {names[0]} of the node is {theirs:g} s: it may be made'
                ' after this server has answered 503. Raise [cassandra]'
                f' request_timeout to at least {theirs:g} and request_deadline'
                f' to at least {2 * theirs:g}, or lower {names[0]} in'
                ' cassandra.yaml.'
            )
    return None


def _seconds(value: str | None) -> float:
    """Return a duration as Cassandra shows it; 0 if it is not known."""
    found = re.fullmatch(r'(\d+) *([a-z]*)', value or '')
    if found is None:
        return 0.0
    return int(found[1]) * _UNITS.get(found[2], 0.0)
