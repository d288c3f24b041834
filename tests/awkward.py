# SPDX-License-Identifier: Apache-2.0
"""Secrets with the characters that configuration files and CQL know."""

from __future__ import annotations

import secrets


def secret() -> str:
    """Return a secret with all that some parser could stumble over.

    Random parts stand at both ends and after each ``$``, so that a message
    which quotes a part of it is found by :func:`parts`.
    """
    first, second, third = (secrets.token_hex(8) for _ in range(3))
    return f'{first}$x{second} %({third})s "\'#;%'


def parts(secret: str) -> list[str]:
    """Return the random parts of a secret, each of which tells it."""
    return [part for part in _words(secret) if len(part) >= 16]


def _words(secret: str) -> list[str]:
    cut = secret.replace('$x', ' ')
    return ''.join(c if c.isalnum() else ' ' for c in cut).split()


def in_cql(secret: str) -> str:
    """Return a secret as it stands in a string of CQL."""
    return secret.replace("'", "''")


def in_conf(secret: str) -> str:
    """Return a secret as it stands in a configuration file."""
    return secret.replace('$', '$$')
