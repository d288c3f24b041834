# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.test_backend_sql import (  # noqa: F401
    SqlCatalog,
    SqlCredential,
    SqlFilterTests,
    SqlIdentity,
    SqlImpliedRoles,
    SqlInheritance,
    SqlLimit,
    SqlLimitTests,
    SqlPolicy,
    SqlRegisteredLimit,
    SqlTrust,
)
