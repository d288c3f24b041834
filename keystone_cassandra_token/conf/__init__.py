# SPDX-License-Identifier: Apache-2.0
"""Options of the Cassandra drivers, and what is wrong with their values."""

from keystone_cassandra_token.conf.checks import (
    RESERVED,
    ConfigurationError,
    check,
    config_files,
    problems,
    secret,
    unknown,
)
from keystone_cassandra_token.conf.options import (
    DRIVER,
    GROUP,
    cassandra_opts,
    connection_opts,
    consistency_opts,
    database_opts,
    is_substituted,
    list_opts,
    namespaces,
    register_opts,
    schema_opts,
)

__all__ = [
    'DRIVER',
    'GROUP',
    'RESERVED',
    'ConfigurationError',
    'cassandra_opts',
    'check',
    'config_files',
    'connection_opts',
    'consistency_opts',
    'database_opts',
    'is_substituted',
    'list_opts',
    'namespaces',
    'problems',
    'register_opts',
    'schema_opts',
    'secret',
    'unknown',
]
