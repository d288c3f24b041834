# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.assignment.role_backends.test_sql import (  # noqa: F401
    SqlRole,
)
