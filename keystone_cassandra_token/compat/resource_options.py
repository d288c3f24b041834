# SPDX-License-Identifier: Apache-2.0
"""Keystone's resource options, as they are stored: value by option id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keystone.common.resource_options import ResourceOptionRegistry


def to_row(
    registry: ResourceOptionRegistry, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options that an entity names, by id; None clears one.

    :raises TypeError, ValueError: for a value that an option refuses.
    """
    found = {}
    named = given.get('options') or {}
    for option in registry.options:
        if option.option_name in named:
            value = named[option.option_name]
            if value is not None:
                option.validator(value)
            found[option.option_id] = value
    return found


def to_ref(
    registry: ResourceOptionRegistry, stored: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return stored options by name, but for those that were cleared."""
    if not stored:
        return {}  # most have none, and lists are long
    return {
        option.option_name: stored[option.option_id]
        for option in registry.options
        if stored.get(option.option_id) is not None
    }
