# SPDX-License-Identifier: Apache-2.0
"""Requests to a Keystone, one after the other, while something happens."""

import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, Self

import requests

from lab.client import ADMIN_SCOPE, Client, direct_session
from lab.server import Keystone
from lab.waiting import PATIENCE, until


class Answer(NamedTuple):
    """What became of a request."""

    operation: str
    phase: str  # what happened meanwhile, as Load.during named it
    seconds: float  # until the answer
    status: int  # of HTTP
    text: str  # of an answer that tells an error


@dataclasses.dataclass
class Sender:
    """Sends requests on a connection of its own; a thread's.

    :ivar token: of an administrator.
    :ivar password: of the user ``admin``.
    :ivar timeout: seconds in which an answer must come.
    """

    url: str
    token: str
    password: str
    timeout: float = PATIENCE

    def __post_init__(self) -> None:
        self._session = direct_session()
        self._session.headers['X-Auth-Token'] = self.token

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        return self._session.request(
            method, self.url + path, timeout=self.timeout, **more
        )

    def log_in(self) -> Iterator[requests.Response]:
        name = {'name': 'admin', 'domain': {'id': 'default'}}
        identity = {
            'methods': ['password'],
            'password': {'user': {**name, 'password': self.password}},
        }
        login = {'auth': {'identity': identity, 'scope': {'project': name}}}
        yield self._send('POST', '/v3/auth/tokens', json=login)

    def validate(self) -> Iterator[requests.Response]:
        subject = {'X-Subject-Token': self.token}
        yield self._send('GET', '/v3/auth/tokens', headers=subject)

    def change(self) -> Iterator[requests.Response]:
        """Create, rename and delete a group."""
        group = {'name': uuid.uuid4().hex, 'domain_id': 'default'}
        made = self._send('POST', '/v3/groups', json={'group': group})
        yield made
        if made.status_code == 201:
            path = f'/v3/groups/{made.json()["group"]["id"]}'
            name = {'name': uuid.uuid4().hex}
            yield self._send('PATCH', path, json={'group': name})
            yield self._send('DELETE', path)

    def give(self) -> Iterator[requests.Response]:
        """Give a role to a group and take it away; the same with a trust."""
        told = self._send(
            'GET', '/v3/auth/tokens', headers={'X-Subject-Token': self.token}
        ).json()['token']
        user, project = told['user']['id'], told['project']['id']
        role = told['roles'][0]['id']
        group = {'name': uuid.uuid4().hex, 'domain_id': 'default'}
        made = self._send('POST', '/v3/groups', json={'group': group})
        group_id = made.json()['group']['id']
        path = f'/v3/projects/{project}/groups/{group_id}/roles/{role}'
        yield self._send('PUT', path)
        yield self._send('DELETE', path)
        trust = {
            'trustor_user_id': user,
            'trustee_user_id': user,
            'impersonation': False,
            'project_id': project,
            'roles': [{'id': role}],
        }
        made = self._send('POST', '/v3/OS-TRUST/trusts', json={'trust': trust})
        yield made
        if made.status_code == 201:
            path = f'/v3/OS-TRUST/trusts/{made.json()["trust"]["id"]}'
            yield self._send('DELETE', path)
        self._send('DELETE', f'/v3/groups/{group_id}')

    def health(self) -> Iterator[requests.Response]:
        yield self._send('GET', '/healthcheck')

    def close(self) -> None:
        self._session.close()


LOG_IN = 'password log-in'
VALIDATION = 'token validation'
CHANGE = 'change of a group'
GIFT = 'role or trust given'
HEALTH = 'health check'

OPERATIONS: dict[str, Callable[[Sender], Iterator[requests.Response]]] = {
    LOG_IN: Sender.log_in,
    VALIDATION: Sender.validate,
    CHANGE: Sender.change,
    GIFT: Sender.give,
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
        with closing(Client(keystone.url, keystone.workers)) as client:
            admin = client.log_in('admin', password, **ADMIN_SCOPE)
        self.answers: list[Answer] = []
        self._operations = operations
        self._sender = partial(
            Sender, keystone.url, admin.auth_token, password
        )
        self._phase = ''
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(len(operations))

    def __enter__(self) -> Self:
        self._running = [
            self._threads.submit(self._run, name) for name in self._operations
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown()

    def during(self, phase: str, count: int) -> None:
        """Name what happens now; wait for so many answers of each kind.

        :param phase: for what is sent from now on.
        """
        self._phase = phase

        def come() -> bool:
            for thread in self._running:
                if thread.done():
                    thread.result()  # raises what has ended it
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

    def _run(self, name: str) -> None:
        with closing(self._sender()) as sender:
            while not self._stop.is_set():
                phase, begin = self._phase, time.monotonic()
                for answer in OPERATIONS[name](sender):
                    seconds = time.monotonic() - begin
                    status = answer.status_code
                    text = answer.text if status >= 400 else ''
                    self.answers.append(
                        Answer(name, phase, seconds, status, text)
                    )
                    phase, begin = self._phase, time.monotonic()
