# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.test_backend_endpoint_policy_sql import (  # noqa: F401
    SqlPolicyAssociationTests,
)
