# SPDX-License-Identifier: Apache-2.0
"""The schema: numbered migrations, and the check of a server at connect."""

from keystone_cassandra_token.schema.version import check

__all__ = ['check']
