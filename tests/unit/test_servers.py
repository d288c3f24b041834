# SPDX-License-Identifier: Apache-2.0
"""What servers say of themselves."""

from __future__ import annotations

from pathlib import Path

import keystone.conf
from cryptography.fernet import Fernet
from oslo_config import cfg

from keystone_cassandra_token.compat import settings
from keystone_cassandra_token.db import servers
from keystone_cassandra_token.db.servers import Server


def test_who_differs_is_named() -> None:
    found = servers.differences(
        [
            Server('dc1', 'a', {'x': '1', 'y': '1', 'new': '1'}),
            Server('dc1', 'b', {'x': '1', 'y': '2'}),
            Server('dc2', 'c', {'x': '1', 'y': '1'}),
        ]
    )
    assert list(found) == [('y', '1 on a (dc1), c (dc2); 2 on b (dc1)')]


def test_a_fingerprint_tells_nothing_of_a_secret() -> None:
    secret = 'abc$SECRET'
    found = servers.fingerprint(secret)
    assert found == servers.fingerprint(secret)
    assert found != servers.fingerprint('abc$SECRES')
    assert len(found) == 16
    assert set(found) <= set('0123456789abcdef')
    assert servers.fingerprint(None) == servers.fingerprint('') == 'none'


def test_settings_hold_no_secret(conf: cfg.ConfigOpts, tmp_path: Path) -> None:
    for group in 'token', 'revoke', 'identity', 'credential':
        getattr(keystone.conf, group).register_opts(conf)
    conf.set_override('key_repository', str(tmp_path), 'credential')
    assert '[credential] key_repository' not in settings.common(conf)
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    for number, key in enumerate(keys):
        (tmp_path / str(number)).write_text(key)
    conf.set_override('token_key', 'a secret', 'cassandra')
    found = settings.common(conf)
    # The primary one is that of the highest number.
    assert found['[credential] key_repository'] == servers.fingerprint(keys[1])
    assert found['[cassandra] token_key'] == servers.fingerprint('a secret')
    text = str(found)
    assert not any(part in text for part in (*keys, 'secret'))
