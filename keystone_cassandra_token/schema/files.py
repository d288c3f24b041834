# SPDX-License-Identifier: Apache-2.0
"""The migration files of this package; no I/O but reading them.

``migrations/NNNN_<name>.cql`` holds statements that can be applied again
without harm, ended by semicolons, with ``--`` comments.  ``{keyspace}``
stands for the keyspace and ``{id:TABLE}`` for a table id that is the same on
every run in that keyspace.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import re
import uuid
from importlib.resources.abc import Traversable

_FILE = re.compile(r'(\d{4})_([a-z0-9_]+)\.cql')
_TABLE_ID = re.compile(r'\{id:([a-z_]+)\}')
_STATEMENT = re.compile(r"(?:'[^']*'|[^';])+")  # a literal may hold a ;
_COMMENT = re.compile(r'--.*$', re.MULTILINE)
_NAMESPACE = uuid.UUID('5f2a1b1e-6c0d-5c57-9a53-0f9f4d1c6e11')


@dataclasses.dataclass(frozen=True)
class Migration:
    """One migration file.

    :ivar version: its number; migrations are applied in this order.
    :ivar checksum: SHA-256 of the file, hexadecimal.
    """

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self, keyspace: str) -> list[str]:
        """Return the file's statements for a keyspace."""
        text = _TABLE_ID.sub(
            lambda found: str(
                uuid.uuid5(_NAMESPACE, f'{keyspace}.{found[1]}')
            ),
            self.text.replace('{keyspace}', keyspace),
        )
        return split(text)


def split(text: str) -> list[str]:
    """Return the statements of a file."""
    parts = _STATEMENT.findall(_COMMENT.sub('', text))
    return [part.strip() for part in parts if part.strip()]


@functools.cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations of this package, in order."""
    return read(importlib.resources.files(__package__) / 'migrations')


def read(folder: Traversable) -> tuple[Migration, ...]:
    """Return the migrations of a folder, in order."""
    found = []
    for entry in folder.iterdir():
        name = _FILE.fullmatch(entry.name)
        if name:
            found.append(
                Migration(int(name[1]), name[2], entry.read_text('utf-8'))
            )
    return tuple(sorted(found, key=lambda migration: migration.version))


def latest() -> int:
    """Return the schema version that this package needs."""
    return migrations()[-1].version
