# SPDX-License-Identifier: Apache-2.0
"""A client of Keystone that chooses the worker it talks to.

Workers share one listening socket, and a connection belongs to the worker
that accepted it.  :class:`Client` keeps one open connection to each; the
answers' ``X-Worker`` header (``lab.wsgi``) tells whose it is.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from keystoneauth1 import session as keystone_session
from keystoneauth1.access import AccessInfoV3
from keystoneauth1.identity import v3

from lab import LabError
from lab.command import output
from lab.waiting import PATIENCE, until

REGION = 'RegionOne'
#: The log-in that fits a freshly bootstrapped Keystone.
ADMIN_SCOPE = {'project_name': 'admin', 'project_domain_id': 'default'}


def direct_session() -> requests.Session:
    """Return a session that puts no proxy between us and loopback."""
    session = requests.Session()
    session.trust_env = False
    return session


class Client:
    """Talks to the workers of one Keystone.

    :param url: where it answers, without ``/v3``.
    :param workers: how many workers there are; waits for all of them.
    """

    def __init__(self, url: str, workers: int) -> None:
        self.url = f'{url}/v3'
        self._connections: dict[str, requests.Session] = {}

        def all_known() -> bool:
            self._connect()
            return len(self._connections) == workers

        try:
            until(all_known, f'answers of {workers} workers from {url}')
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> list[str]:
        """Process ids of the workers."""
        return sorted(self._connections, key=int)

    def _connect(self) -> None:
        """Open a connection; keep it if its worker is not yet known."""
        connection = direct_session()
        worker = self._whose(connection)
        if worker in self._connections:
            connection.close()
        else:
            self._connections[worker] = connection

    def _whose(self, connection: requests.Session) -> str:
        return connection.get(self.url, timeout=PATIENCE).headers['X-Worker']

    def session(self, worker: str | None = None) -> keystone_session.Session:
        """Return a keystoneauth session on a connection to ``worker``.

        :raises LabError: if that worker accepts no connection any more.
        """
        number = worker or self.workers[0]

        def connected() -> requests.Session | None:
            connection = self._connections.get(number)
            # A server closes an idle connection some time.
            if connection is None:
                self._connect()
            elif self._whose(connection) == number:
                return connection
            else:
                self._connections.pop(number).close()
            return None

        connection = until(connected, f'an answer of worker {number}')
        return keystone_session.Session(session=connection)

    def log_in(
        self, name: str, password: str, worker: str | None = None, **scope: str
    ) -> AccessInfoV3:
        """Log in with a password.

        :param scope: ``project_name`` and ``project_domain_id``,
            ``trust_id`` or nothing.
        :raises keystoneauth1.exceptions.http.HttpError: if refused.
        """
        user = {'username': name, 'user_domain_id': 'default'}
        login = v3.Password(self.url, password=password, **user, **scope)
        return login.get_access(self.session(worker))

    def log_in_by_credential(
        self, credential_id: str, secret: str
    ) -> AccessInfoV3:
        """Log in with an application credential.

        :raises keystoneauth1.exceptions.http.HttpError: if refused.
        """
        login = v3.ApplicationCredential(
            self.url,
            application_credential_id=credential_id,
            application_credential_secret=secret,
        )
        return login.get_access(self.session())

    def request(
        self,
        method: str,
        path: str,
        token: str,
        subject: str | None = None,
        json: Any = None,
        worker: str | None = None,
    ) -> requests.Response:
        """Send a request with a token; an error status is no exception.

        :param subject: the token that the request is about.
        """
        headers = {'X-Auth-Token': token}
        if subject is not None:
            headers['X-Subject-Token'] = subject
        return self.session(worker).request(
            self.url + path,
            method,
            authenticated=False,
            raise_exc=False,
            headers=headers,
            json=json,
            log=False,
        )

    def call(self, method: str, path: str, token: str, json: Any) -> Any:
        """Send a request that must succeed and return what it made.

        :raises LabError: with the answer, if it fails.
        """
        answer = self.request(method, path, token, json=json)
        if not answer.ok:
            raise LabError(
                f'{method} {path}: {answer.status_code} {answer.text}'
            )
        return next(iter(answer.json().values())) if answer.content else None

    def validate(
        self, admin: str, token: str, worker: str | None = None
    ) -> int:
        """Return the status of validating ``token``: 200 or 404."""
        answer = self.request(
            'GET', '/auth/tokens', admin, subject=token, worker=worker
        )
        return answer.status_code

    def validate_everywhere(self, admin: str, token: str) -> dict[str, int]:
        """Return the status of validating ``token`` by worker."""
        return {
            worker: self.validate(admin, token, worker)
            for worker in self.workers
        }

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def openstack(environment: Mapping[str, str], *arguments: str) -> str:
    """Run the ``openstack`` command and return what it prints.

    :param environment: its ``OS_`` variables: where the password goes.
    :raises LabError: if it fails.
    """
    others = {k: v for k, v in os.environ.items() if k[:3] != 'OS_'}
    return output(
        f'openstack {" ".join(arguments)}',
        [str(Path(sys.executable).parent / 'openstack'), *arguments],
        env=others | no_proxy(os.environ) | dict(environment),
    )


def credentials(url: str, password: str) -> dict[str, str]:
    """Return the variables with which ``openstack`` logs in as admin."""
    return {
        'OS_AUTH_URL': f'{url}/v3',
        'OS_IDENTITY_API_VERSION': '3',
        'OS_USERNAME': 'admin',
        'OS_USER_DOMAIN_ID': 'default',
        'OS_PROJECT_NAME': 'admin',
        'OS_PROJECT_DOMAIN_ID': 'default',
        'OS_REGION_NAME': REGION,
        'OS_PASSWORD': password,
    }


def no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep a proxy out of the way to loopback.

    Both spellings: which one a program reads first differs.
    """
    given = environment.get('no_proxy') or environment.get('NO_PROXY') or ''
    hosts = dict.fromkeys(
        ['127.0.0.1', 'localhost', *filter(None, given.split(','))]
    )
    return dict.fromkeys(('no_proxy', 'NO_PROXY'), ','.join(hosts))
