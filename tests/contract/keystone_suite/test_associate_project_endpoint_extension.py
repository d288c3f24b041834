# SPDX-License-Identifier: Apache-2.0
"""Keystone's own tests, see conftest."""

from keystone.tests.unit.test_associate_project_endpoint_extension import *  # noqa: F403
