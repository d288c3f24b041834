# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.resource.config_backends.test_sql import (  # noqa: F401
    SqlDomainConfig,
    SqlDomainConfigDriver,
)
