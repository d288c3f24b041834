# SPDX-License-Identifier: Apache-2.0
"""Projects, domains and their configuration."""
