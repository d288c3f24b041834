# SPDX-License-Identifier: Apache-2.0
"""Registered limits and limits."""
