# SPDX-License-Identifier: Apache-2.0
"""How many application credentials a user may have, through Keystone.

Keystone's own test creates one and the same three times, with one id.
"""

from __future__ import annotations

import pytest
from keystone import exception
from keystone.common import provider_api
from keystone.tests.unit.application_credential import test_backends
from keystone.tests.unit.backend import core_sql

PROVIDERS = provider_api.ProviderAPIs


class TestUserLimit(core_sql.BaseBackendSqlTests):
    def create(self) -> str:
        made = test_backends.ApplicationCredentialTests._new_app_cred_data(
            self, self.user_foo['id'], self.project_bar['id']
        )
        api = PROVIDERS.application_credential_api
        return api.create_application_credential(made)['id']

    def test_the_third_of_two_is_refused(self) -> None:
        self.config_fixture.config(
            group='application_credential', user_limit=2
        )
        first, _ = self.create(), self.create()
        with pytest.raises(exception.ApplicationCredentialLimitExceeded):
            self.create()
        PROVIDERS.application_credential_api.delete_application_credential(
            first
        )
        self.create()
        with pytest.raises(exception.ApplicationCredentialLimitExceeded):
            self.create()
