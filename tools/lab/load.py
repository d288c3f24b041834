# SPDX-License-Identifier: Apache-2.0
"""Requests to a Keystone, one after the other, while something happens."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import requests

from lab.client import ADMIN_SCOPE, Client
from lab.server import Keystone
from lab.waiting import PATIENCE, until


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of a request.

    :ivar phase: what happened meanwhile, as :meth:`Load.during` named it.
    :ivar seconds: until the answer.
    :ivar status: of HTTP.
    :ivar text: of an answer that tells an error.
    """

    operation: str
    phase: str
    seconds: float
    status: int
    text: str


class Sender:
    """Sends requests on a connection of its own; a thread's.

    :param token: of an administrator.
    :param password: of the user ``admin``.
    :param timeout: seconds in which an answer must come.
    """

    def __init__(
        self,
        url: str,
        token: str,
        password: str,
        timeout: float = PATIENCE,
    ) -> None:
        self._timeout = timeout
        self._url = url
        self._token = token
        self._password = password
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and loopback

    def send(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {'X-Auth-Token': self._token, **more.pop('headers', {})}
        return self._session.request(
            method,
            f'{self._url}/v3{path}',
            headers=headers,
            timeout=self._timeout,
            **more,
        )

    def log_in(self) -> Iterator[requests.Response]:
        name = {'name': 'admin', 'domain': {'id': 'default'}}
        project = {'name': 'admin', 'domain': {'id': 'default'}}
        yield self.send(
            'POST',
            '/auth/tokens',
            json={
                'auth': {
                    'identity': {
                        'methods': ['password'],
                        'password': {
                            'user': {**name, 'password': self._password}
                        },
                    },
                    'scope': {'project': project},
                }
            },
        )

    def validate(self) -> Iterator[requests.Response]:
        yield self.send(
            'GET', '/auth/tokens', headers={'X-Subject-Token': self._token}
        )

    def change(self) -> Iterator[requests.Response]:
        """Create, rename and delete a group."""
        group = {'name': uuid.uuid4().hex, 'domain_id': 'default'}
        made = self.send('POST', '/groups', json={'group': group})
        yield made
        if made.status_code == 201:
            path = f'/groups/{made.json()["group"]["id"]}'
            name = {'name': uuid.uuid4().hex}
            yield self.send('PATCH', path, json={'group': name})
            yield self.send('DELETE', path)

    def health(self) -> Iterator[requests.Response]:
        yield self._session.get(
            f'{self._url}/healthcheck', timeout=self._timeout
        )

    def close(self) -> None:
        self._session.close()


LOG_IN = 'password log-in'
VALIDATION = 'token validation'
CHANGE = 'change of a group'
HEALTH = 'health check'

OPERATIONS: dict[str, Callable[[Sender], Iterator[requests.Response]]] = {
    LOG_IN: Sender.log_in,
    VALIDATION: Sender.validate,
    CHANGE: Sender.change,
    HEALTH: Sender.health,
}


class Load:
    """Threads that send requests, one for each operation, until the end.

    :param keystone: a server that runs.
    :param password: of the user ``admin``.
    :param operations: of :data:`OPERATIONS`.
    :ivar answers: all of them so far.
    """

    def __init__(
        self, keystone: Keystone, password: str, operations: Sequence[str]
    ) -> None:
        client = Client(keystone.url, keystone.workers)
        token = client.log_in('admin', password, **ADMIN_SCOPE).auth_token
        client.close()
        self.answers: list[Answer] = []
        self._operations = operations
        self._phase = ''
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(name, Sender(keystone.url, token, password)),
            )
            for name in operations
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def during(self, phase: str, count: int) -> None:
        """Name what happens now; wait for so many answers of each kind.

        :param phase: for what is sent from now on.
        """
        self._phase = phase

        def come() -> bool:
            if self._failed:
                raise self._failed[0]
            return all(
                len(self.seconds(name, phase)) >= count
                for name in self._operations
            )

        until(come, f'{count} answers {phase}')

    def seconds(self, operation: str, phase: str) -> list[float]:
        """Return the times of the answers to an operation in a phase."""
        return [
            each.seconds
            for each in list(self.answers)
            if (each.operation, each.phase) == (operation, phase)
        ]

    def refused(self) -> list[Answer]:
        """Return the answers that tell an error."""
        return [each for each in self.answers if each.status >= 400]

    def _run(self, name: str, sender: Sender) -> None:
        try:
            while not self._stop.is_set():
                phase, begin = self._phase, time.monotonic()
                for answer in OPERATIONS[name](sender):
                    end = time.monotonic()
                    text = answer.text if answer.status_code >= 400 else ''
                    self.answers.append(
                        Answer(
                            name, phase, end - begin, answer.status_code, text
                        )
                    )
                    phase, begin = self._phase, time.monotonic()
        except BaseException as error:
            self._failed.append(error)
        finally:
            sender.close()
