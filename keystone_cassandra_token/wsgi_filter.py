# SPDX-License-Identifier: Apache-2.0
"""The WSGI filter that belongs around Keystone's application.

It gives each request one deadline (``[cassandra] request_deadline``) and one
memory of what it has read, of which the validation of the caller's token is a
part, and answers 503 with ``Retry-After``: Keystone's error handler sets no
headers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keystone.conf
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import deadline, remembered

#: Seconds after which a client that was told 503 should come back.
RETRY_AFTER = 1

Application = Callable[..., Iterable[bytes]]


class Filter:
    """Give requests a deadline, and 503 a ``Retry-After``.

    :param app: a WSGI application.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        options.register_opts(keystone.conf.CONF)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            if status.startswith('503') and not any(
                name.lower() == 'retry-after' for name, _ in headers
            ):
                headers = [*headers, ('Retry-After', str(RETRY_AFTER))]
            return start_response(status, headers, exc_info)

        environ[deadline.FILTERED] = True
        with _within_deadline(), remembered.within_request():
            return self._app(environ, start)


def _within_deadline() -> contextlib.AbstractContextManager[None]:
    try:
        seconds = keystone.conf.CONF.cassandra.request_deadline
    except (cfg.Error, ValueError):
        # Each request that needs Cassandra is told so anyway.
        return contextlib.nullcontext()
    return deadline.within(seconds)
