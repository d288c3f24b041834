# SPDX-License-Identifier: Apache-2.0
"""Regions, services, endpoints, and their policies."""
