# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest.

Of this module the classes that issue and validate tokens; the others are
about identity providers, mappings and SAML.
"""

from keystone.tests.unit.test_v3_federation import (  # noqa: F401
    FederatedTokenTests,
    FederatedUserTests,
    FernetFederatedTokenTests,
)
