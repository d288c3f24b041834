# SPDX-License-Identifier: Apache-2.0
"""Shapes of tables that several areas share, and what fixes them."""
