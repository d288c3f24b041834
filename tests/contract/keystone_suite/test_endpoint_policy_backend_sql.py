# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.endpoint_policy.backends.test_sql import (  # noqa: F401
    SQLDriverTestCase,
)
