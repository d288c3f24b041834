# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.test_auth_plugin import *  # noqa: F403
