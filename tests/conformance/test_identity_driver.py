# SPDX-License-Identifier: Apache-2.0
"""Keystone's tests of a driver of identities, on ours.

Keystone runs the same class on its SQL driver with a database engine of its
own for each test (``identity/backends/test_sql.py``).
"""

from __future__ import annotations

from keystone.tests.unit.identity.backends import test_base
from oslotest import base

from keystone_cassandra_token.drivers import identity


class TestIdentityDriver(base.BaseTestCase, test_base.IdentityDriverTests):
    expected_is_domain_aware = True
    expected_default_assignment_driver = 'sql'
    # Keystone removes what a domain has only if this is true.
    expected_is_sql = True
    expected_generates_uuids = True

    def setUp(self) -> None:
        super().setUp()
        self.driver = identity.Identity()
