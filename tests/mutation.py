# SPDX-License-Identifier: Apache-2.0
"""What a guard is, without which a test fails."""

from __future__ import annotations

import dataclasses
import pathlib

PACKAGE = 'keystone_cassandra_token'


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A guard that is taken out.

    :ivar guard: what it keeps from happening.
    :ivar path: of the module, in the package.
    :ivar code: what is there, once.
    :ivar instead: what is put in its place.
    :ivar tests: arguments of pytest: tests of which one must fail.
    """

    guard: str
    path: str
    code: str
    instead: str
    tests: str

    def source(self, root: pathlib.Path) -> pathlib.Path:
        return root / PACKAGE / self.path
