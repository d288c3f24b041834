# SPDX-License-Identifier: Apache-2.0
"""Calls of drivers that hypothesis draws, and answers that can be compared."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hypothesis import strategies as st
from keystone.common.driver_hints import Hints

#: A filter: name, value, comparator.
Filter = tuple[str, Any, str]


def call(name: str, *arguments: Any) -> Any:
    """Return a strategy of calls of a method."""
    return st.tuples(st.just(name), *arguments)


def record(attributes: Mapping[str, Any], *needed: str) -> Any:
    """Return a strategy of entities.

    :param attributes: strategies of values, by name.
    :param needed: names of those that each entity has.
    """
    return st.fixed_dictionaries(
        {name: attributes[name] for name in needed},
        optional={
            name: value
            for name, value in attributes.items()
            if name not in needed
        },
    )


def hints(*wanted: Filter) -> Any:
    """Return a strategy of some of these filters with a limit, or none."""
    some = st.lists(st.sampled_from(wanted), max_size=2, unique=True)
    return st.tuples(some, st.sampled_from([None, None, 1, 2, 10]))


def listed(
    method: Callable[[Hints], list[Any]],
    wanted: Iterable[Filter],
    limit: int | None,
    in_order: Callable[[list[Any]], list[Any]],
) -> tuple[Any, list[str], bool]:
    """List with hints.

    :param in_order: sorts what was found: no order is promised.
    :returns: what was found, or how many of it where the list was cut; the
        names of the filters that are left; whether it was cut.
    """
    asked = Hints()
    for name, value, comparator in wanted:
        asked.add_filter(name, value, comparator)
    if limit:
        asked.set_limit(limit)
    found = method(asked)
    assert type(found) is list
    if asked.cannot_match:
        # Longer than any value: SQL says so at once.
        return [], [], False
    left = [entry['name'] for entry in asked.filters]
    if asked.limit and asked.limit['truncated']:
        # Which ones are left out is anybody's choice.
        return len(found), left, True
    return in_order(found), left, False
