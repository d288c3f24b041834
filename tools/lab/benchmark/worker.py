# SPDX-License-Identifier: Apache-2.0
"""What the session costs a Keystone worker: memory, and the first use."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from lab.benchmark.clients import Pool

#: Operations of each kind after the first use.
OPERATIONS = 200
#: The options of a worker with Keystone's own drivers.
_STOCK = """\
[token]
provider = fernet
[revoke]
driver = sql
[trust]
driver = sql
"""


class Worker(NamedTuple):
    """What a worker saw of itself."""

    loaded: int  # resident bytes once the application is loaded
    used: int  # resident bytes after some hundred operations
    first_use: float  # seconds of the first one: connect, prepare, read


def start(config_file: str, provider: str) -> Worker:
    """Start a worker process and return what it saw.

    It loads the real application as a server does, and nothing before.

    :param provider: ``cassandra`` for our drivers, ``fernet`` for a worker
        without them.
    """
    pool = Pool(int, 'spawn')
    worker: Worker = pool.call(_work, config_file, provider == 'cassandra')
    pool.shrink(0)
    return worker


def _work(_: int, config_file: str, ours: bool) -> Worker:
    # Keystone parses the command line of its process.
    sys.argv = ['keystone']
    from keystone.server.flask import core

    files = [config_file]
    if not ours:
        files.append(f'{config_file}.stock')
        Path(files[-1]).write_text(_STOCK)
    application = core.initialize_application('public', config_files=files)
    assert application is not None
    loaded = _resident()

    from keystone import exception
    from keystone.common import provider_api

    from lab.benchmark import events

    tokens = provider_api.ProviderAPIs.token_provider_api.driver
    began = time.perf_counter()
    with contextlib.suppress(exception.TokenNotFound):
        # Well formed, and nobody's: the first read of a worker.
        tokens.validate_token('kc1_' + 43 * 'A')
    first_use = time.perf_counter() - began
    revocations = provider_api.ProviderAPIs.revoke_api.driver
    now = events.now()
    for _ in range(OPERATIONS):
        token_id, _ = tokens.generate_id_and_issued_at(events.new_token(3600))
        tokens.validate_token(token_id)
        if ours:
            revocations.list_events(token=events.token_values(60, now))
            revocations.revoke(events.audit_event())
    return Worker(loaded, _resident(), first_use)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
