# SPDX-License-Identifier: Apache-2.0
"""The settings that all servers of a keyspace must have in common."""

from __future__ import annotations

import contextlib
import os

from keystone.common import fernet_utils
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db.servers import fingerprint

#: Options whose values differ by mistake only.
_COMMON = (
    ('token', 'provider'),
    ('token', 'expiration'),
    ('token', 'allow_expired_window'),
    ('revoke', 'driver'),
    ('revoke', 'expiration_buffer'),
    ('identity', 'password_hash_algorithm'),
    (options.GROUP, 'global_serial_consistency'),
    (options.GROUP, 'local_serial_consistency'),
    (options.GROUP, 'token_read_consistency'),
    (options.GROUP, 'token_write_consistency'),
    (options.GROUP, 'revocation_read_consistency'),
    (options.GROUP, 'revocation_write_consistency'),
    (options.GROUP, 'read_consistency'),
    (options.GROUP, 'write_consistency'),
    (options.GROUP, 'follow_changes'),
)


def common(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Return them by name; of secrets what tells them from others."""
    found = {
        f'[{section}] {option}': str(conf[section][option])
        for section, option in _COMMON
    }
    # Who needs what cannot be read is told so.
    with contextlib.suppress(options.ConfigurationError):
        key = options.secret(conf, 'token_key')
        found['[cassandra] token_key'] = fingerprint(key)
    with contextlib.suppress(OSError):
        if key := _credential_key(conf):
            found['[credential] key_repository'] = fingerprint(key)
    return found


def _credential_key(conf: cfg.ConfigOpts) -> str | None:
    """Return the primary key of the credentials, None without one."""
    repository = conf.credential.key_repository
    if conf.credential.provider != 'fernet' or not os.path.isdir(repository):
        return None
    keys = fernet_utils.FernetUtils(repository, 3, 'credential').load_keys()
    return keys[0] if keys else None
