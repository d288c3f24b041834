# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.protection.v3.test_policy import *  # noqa: F403
