# SPDX-License-Identifier: Apache-2.0
"""Roles, and who has them where."""
