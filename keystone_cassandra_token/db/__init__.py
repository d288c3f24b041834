# SPDX-License-Identifier: Apache-2.0
"""The one way to Cassandra: statements, levels, session, store; no data."""
