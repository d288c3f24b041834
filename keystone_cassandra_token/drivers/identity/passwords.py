# SPDX-License-Identifier: Apache-2.0
"""The passwords of a user, as two regions may have set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of(user: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a user's passwords, the present one last.

    What the user has chosen elsewhere, with the password of before, does not
    undo what an administrator has set, whatever has the later timestamp: of
    each reset there is what was chosen after it.
    """
    latest: list[dict[str, Any]] = user['passwords'] or []
    reset: list[dict[str, Any]] = user['reset_passwords'] or []
    if not reset:
        return latest
    chosen = user['chosen_passwords'] or {}
    found: list[dict[str, Any]] = chosen.get(reset[-1]['reset_id']) or reset
    # A server of a former version writes the first column alone.
    if (
        latest
        and 'reset_id' not in latest[-1]
        and latest[-1]['created_at'] > found[-1]['created_at']
    ):
        return latest
    return found


def reset_id(user: Mapping[str, Any]) -> str | None:
    """Return which reset a user's present password comes from, if any."""
    reset = user['reset_passwords']
    return reset[-1]['reset_id'] if reset else None


def choosing(
    user: Mapping[str, Any], found: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the changes by which a user has chosen a password.

    :param found: from :func:`.users.with_password`.
    """
    return {
        'passwords': found,
        'chosen_passwords': {reset_id(user) or '': found},
    }


def resetting(
    user: Mapping[str, Any], found: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the changes by which an administrator has set a password.

    :param found: as for :func:`choosing`.
    """
    return {
        'passwords': found,
        'reset_passwords': found,
        'chosen_passwords': dict.fromkeys(user['chosen_passwords'] or ()),
    }
