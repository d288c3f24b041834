# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.auth.plugins.test_mapped import *  # noqa: F403
