# SPDX-License-Identifier: Apache-2.0
"""Keystone's tests of a driver of identities, on ours.

Keystone runs the same class on its SQL driver with a database engine of its
own for each test (``identity/backends/test_sql.py``).  And what it tests by
watching a method of that driver.
"""

from __future__ import annotations

import uuid
from typing import Any
from unittest import mock

import pytest
from keystone import exception
from keystone.common import provider_api
from keystone.tests import unit
from keystone.tests.unit.backend import core_sql
from keystone.tests.unit.identity.backends import test_base
from oslotest import base

from keystone_cassandra_token.drivers.identity import driver as identity

PROVIDERS = provider_api.ProviderAPIs


class TestIdentityDriver(base.BaseTestCase, test_base.IdentityDriverTests):
    expected_is_domain_aware = True
    expected_default_assignment_driver = 'sql'
    # Keystone removes what a domain has only if this is true.
    expected_is_sql = True
    expected_generates_uuids = True

    def setUp(self) -> None:
        super().setUp()
        self.driver = identity.Identity()


class TestDeletedMeanwhile(core_sql.BaseBackendSqlTests):
    """A user is deleted after the password was found to be right."""

    def deleting(self, api: Any, user_id: str) -> Any:
        authenticate = api.driver.authenticate

        def act(*args: str) -> Any:
            said = authenticate(*args)
            api.delete_user(user_id)
            return said.copy()  # as Keystone does of a domain's own driver

        return mock.patch.object(api.driver, 'authenticate', act)

    def test_nobody_comes_back_as_another_kind_of_user(self) -> None:
        api = PROVIDERS.identity_api
        given = unit.new_user_ref('default')
        user_id = api.create_user(given)['id']
        with (
            self.make_request(),
            self.deleting(api, user_id),
            pytest.raises(AssertionError),
        ):
            api.authenticate(user_id=user_id, password=given['password'])
        with pytest.raises(exception.UserNotFound):
            PROVIDERS.shadow_users_api.get_user(user_id)

    def test_whom_another_backend_knows_does(self) -> None:
        """By the id that Keystone gave it, which is another one there."""
        api = PROVIDERS.identity_api
        given = unit.new_user_ref('default')
        user_id = api.create_user(given)['id']
        authenticated = api.driver.authenticate(user_id, given['password'])
        shadow = authenticated.copy()
        shadow['id'] = uuid.uuid4().hex
        made = PROVIDERS.shadow_users_api.create_nonlocal_user(shadow)
        assert made['id'] == shadow['id']
        found = PROVIDERS.shadow_users_api.get_user(shadow['id'])
        assert found['name'] == given['name']


class ReadOnly:
    """The driver of another domain, which refuses to write, as LDAP's."""

    asked = False

    def unset_default_project_id(self, project_id: str) -> None:
        self.asked = True
        raise exception.Forbidden


class TestBesideAReadOnlyDriver(core_sql.BaseBackendSqlTests):
    def test_a_deleted_project_is_nobodys_default(self) -> None:
        api = PROVIDERS.identity_api
        other = ReadOnly()
        api.domain_configs[uuid.uuid4().hex] = {'driver': other}
        project = unit.new_project_ref(domain_id='default')
        PROVIDERS.resource_api.create_project(project['id'], project)
        user = api.create_user(
            unit.new_user_ref('default', project_id=project['id'])
        )
        found = api.driver.get_user(user['id'])
        assert found['default_project_id'] == project['id']
        PROVIDERS.resource_api.delete_project(project['id'])
        assert other.asked
        assert 'default_project_id' not in api.driver.get_user(user['id'])
