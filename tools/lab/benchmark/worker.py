# SPDX-License-Identifier: Apache-2.0
"""What the session costs a Keystone worker: memory, and the first use.

Run as a program it is such a worker: it loads the real application as a
server does, uses the drivers, and prints what it saw as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from typing import Any

import psutil

from lab import LabError

#: Operations of each kind after the first use.
OPERATIONS = 200


@dataclasses.dataclass(frozen=True)
class Worker:
    """What a worker saw of itself.

    :ivar loaded: resident bytes once the application is loaded.
    :ivar connected: after the first use of a driver.
    :ivar used: after some hundred operations.
    :ivar first_use: seconds of that first use: connect, prepare, read.
    """

    loaded: int
    connected: int
    used: int
    first_use: float


def start(config_file: str, provider: str) -> Worker:
    """Start a worker process and return what it saw.

    :param provider: ``cassandra`` for our drivers, ``fernet`` for a worker
        without them.
    :raises LabError: if it fails.
    """
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-m', __name__),
            *(config_file, provider),
        ],
        env=os.environ
        | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = (done.stdout + done.stderr).splitlines()[-15:]
        raise LabError(
            f'a worker ended with {done.returncode}:\n' + '\n'.join(told)
        )
    return Worker(**json.loads(done.stdout.splitlines()[-1]))


def _work(config_file: str, provider: str) -> Worker:
    # Keystone parses the command line of its process.
    sys.argv = ['keystone']
    from keystone.server.flask import core

    files = [config_file]
    if provider != 'cassandra':
        files.append(_stock(config_file))
    application = core.initialize_application('public', config_files=files)
    assert application is not None
    loaded = resident()

    from keystone import exception
    from keystone.common import provider_api

    api = provider_api.ProviderAPIs
    tokens: Any = api.token_provider_api.driver
    began = time.perf_counter()
    with contextlib.suppress(exception.TokenNotFound):
        # Well formed, and nobody's: the first read of a worker.
        tokens.validate_token('kc1_' + 43 * 'A')
    first_use = time.perf_counter() - began
    connected = resident()
    _use(tokens, api.revoke_api.driver if provider == 'cassandra' else None)
    return Worker(loaded, connected, resident(), first_use)


def _use(tokens: Any, revocations: Any) -> None:
    from lab.benchmark import events

    now = events.now()
    for _ in range(OPERATIONS):
        token_id, _ = tokens.generate_id_and_issued_at(events.new_token(3600))
        tokens.validate_token(token_id)
        if revocations is not None:
            revocations.list_events(token=events.token_values(60, now))
            revocations.revoke(events.audit_event())


def _stock(config_file: str) -> str:
    """Write the options of a worker with Keystone's own drivers."""
    path = f'{config_file}.stock'
    with open(path, 'w') as file:
        file.write(
            '[token]\nprovider = fernet\n'
            '[revoke]\ndriver = sql\n[trust]\ndriver = sql\n'
        )
    return path


def resident(process: int | None = None) -> int:
    """Return the resident bytes of a process, of this one by default."""
    return int(psutil.Process(process).memory_info().rss)


if __name__ == '__main__':
    print(json.dumps(dataclasses.asdict(_work(*sys.argv[1:]))))
