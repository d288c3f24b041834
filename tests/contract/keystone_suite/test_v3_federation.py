# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest.

Of this module the classes that keep something: providers, protocols, mappings,
users, tokens.  The others are about SAML documents and the home document.
"""

from keystone.tests.unit.test_v3_federation import (  # noqa: F401
    FederatedIdentityProviderTests,
    FederatedTokenTests,
    FederatedUserTests,
    FernetFederatedTokenTests,
    K2KServiceCatalogTests,
    MappingCRUDTests,
    ServiceProviderTests,
    ShadowMappingTests,
    WebSSOTests,
)
