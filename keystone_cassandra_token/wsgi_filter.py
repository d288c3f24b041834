# SPDX-License-Identifier: Apache-2.0
"""The WSGI filter that belongs around Keystone's application.

It gives each request one deadline (``[cassandra] request_deadline``) and one
memory of what it has read, of which the validation of the caller's token is a
part, and answers 503 with ``Retry-After``: Keystone's error handler sets no
headers.  In the strict mode of revocations it waits for other regions, last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keystone.conf
from oslo_config import cfg
from oslo_serialization import jsonutils

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import (
    awaited,
    deadline,
    errors,
    remembered,
)
from keystone_cassandra_token.drivers import base

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
        answer = _Answer(start_response)
        if not deadline.serving.is_set():
            deadline.serving.set()
            # What is in a cache is answered without Cassandra, and must be
            # dropped from it all the same.
            base.connect_soon()
        environ[deadline.FILTERED] = True
        with (
            _within_deadline(),
            remembered.within_request(),
            awaited.within_request() as last,
        ):
            body = self._app(environ, answer.start)
            try:
                last.result()
            except errors.StoreUnavailable as failure:
                if answer.is_success:
                    head = environ.get('REQUEST_METHOD') == 'HEAD'
                    return answer.instead(body, failure, head)
            return answer.begun(body)


class _Answer:
    """An answer that is kept until all that the request waits for has come."""

    def __init__(self, start_response: Callable[..., Any]) -> None:
        self._start = start_response
        self._kept: tuple[Any, ...] | None = None
        self._keeps = True
        self._written: list[bytes] = []

    @property
    def is_success(self) -> bool:
        return self._kept is not None and self._kept[0].startswith('2')

    def start(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Any:
        """Begin the answer, as WSGI's ``start_response``."""
        if status.startswith('503') and not any(
            name.lower() == 'retry-after' for name, _ in headers
        ):
            headers = [*headers, ('Retry-After', str(RETRY_AFTER))]
        if not self._keeps:
            return self._start(status, headers, exc_info)
        self._kept = status, headers, exc_info
        return self._written.append

    def begun(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Give the answer as it is."""
        self._keeps = False
        if self._kept is not None:
            write = self._start(*self._kept)
            for each in self._written:
                write(each)
        return body

    def instead(
        self,
        body: Iterable[bytes],
        failure: errors.StoreUnavailable,
        head: bool,
    ) -> Iterable[bytes]:
        """Give another answer: 503, as Keystone does.

        :param head: whether it has no body.
        """
        if hasattr(body, 'close'):
            body.close()
        said = {
            'code': failure.code,
            'title': failure.title,
            'message': failure.public,
        }
        text = jsonutils.dump_as_bytes({'error': said})
        kept = self._kept[1] if self._kept else []
        headers = [
            # Such as the id of the request, and what browsers want.
            *(x for x in kept if not x[0].lower().startswith('content-')),
            ('Content-Type', 'application/json'),
            ('Content-Length', str(len(text))),
        ]
        self._keeps = False
        self.start(f'{failure.code} {failure.title}', headers)
        return [] if head else [text]


def _within_deadline() -> contextlib.AbstractContextManager[None]:
    try:
        seconds = keystone.conf.CONF.cassandra.request_deadline
    except (cfg.Error, ValueError):
        # Each request that needs Cassandra is told so anyway.
        return contextlib.nullcontext()
    return deadline.of_request(seconds)
