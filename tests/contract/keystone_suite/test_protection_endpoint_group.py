# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.protection.v3.test_endpoint_group import *  # noqa: F403
