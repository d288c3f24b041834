# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.federation.test_core import *  # noqa: F403
