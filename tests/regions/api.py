# SPDX-License-Identifier: Apache-2.0
"""Requests to the Keystone of one region, as a client there sends them."""

from __future__ import annotations

from typing import Any, NamedTuple

import requests
from lab.client import direct_session
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from tests.regions.history import OK, REFUSED, UNKNOWN, UNSENT

#: Seconds after which a client gives up: a server does so before, unless it
#: hangs.
PATIENCE = 12
#: A connection stays with one process of a server.
_REQUESTS_OF_A_CONNECTION = 10

Json = dict[str, Any]


class Answer(NamedTuple):
    """What a client was told.

    :ivar status: of HTTP; None without an answer.
    :ivar body: what was sent, empty if it was nothing.
    :ivar token: of a log-in.
    """

    outcome: str
    status: int | None = None
    body: Json = {}
    token: str = ''

    def __bool__(self) -> bool:
        return self.outcome == OK

    @property
    def entity(self) -> Any:
        """What the body has under its one name."""
        return next(iter(self.body.values()))


class Api:
    """One client in one region; used by one thread, which is in it.

    :param url: of Keystone, without ``/v3``.
    """

    def __init__(self, url: str) -> None:
        self._url = f'{url}/v3'
        self._session = direct_session()
        self._left = _REQUESTS_OF_A_CONNECTION

    def close(self) -> None:
        self._session.close()

    def send(
        self,
        method: str,
        path: str,
        token: str = '',
        *,
        subject: str = '',
        json: Json | None = None,
    ) -> Answer:
        """Send a request and return what is known then."""
        self._left -= 1
        if self._left < 0:
            self._left = _REQUESTS_OF_A_CONNECTION
            self._session.close()
        headers = {'X-Auth-Token': token, 'X-Subject-Token': subject}
        try:
            answer = self._session.request(
                method,
                self._url + path,
                headers={k: v for k, v in headers.items() if v},
                json=json,
                timeout=PATIENCE,
            )
            body = answer.json() if answer.content else {}
        except (requests.RequestException, ValueError) as error:
            self._session.close()
            return Answer(UNSENT if _was_not_sent(error) else UNKNOWN)
        status = answer.status_code
        outcome = OK if answer.ok else REFUSED if status < 500 else UNKNOWN
        given = answer.headers.get('X-Subject-Token', '')
        return Answer(outcome, status, body, given)

    def log_in(self, user: str, password: str, project: str) -> Answer:
        """Log in by the id of a user, for a project."""
        return self._log_in(
            {
                'methods': ['password'],
                'password': {'user': {'id': user, 'password': password}},
            },
            {'project': {'id': project}},
        )

    def log_in_by_name(self, name: str, domain: str, password: str) -> Answer:
        """Log in by a name, for nothing."""
        user = {'name': name, 'domain': {'id': domain}, 'password': password}
        return self._log_in(
            {'methods': ['password'], 'password': {'user': user}},
            'unscoped',
        )

    def log_in_as_admin(self, password: str) -> Answer:
        user = {
            'name': 'admin',
            'domain': {'id': 'default'},
            'password': password,
        }
        return self._log_in(
            {'methods': ['password'], 'password': {'user': user}},
            {'project': {'name': 'admin', 'domain': {'id': 'default'}}},
        )

    def use_trust(self, token: str, trust: str) -> Answer:
        """Use a trust with a token of its trustee."""
        return self._log_in(
            {'methods': ['token'], 'token': {'id': token}},
            {'OS-TRUST:trust': {'id': trust}},
        )

    def log_in_by_credential(self, credential: str, secret: str) -> Answer:
        name = 'application_credential'
        return self._log_in(
            {'methods': [name], name: {'id': credential, 'secret': secret}}
        )

    def _log_in(self, identity: Json, scope: Any = None) -> Answer:
        auth = {'identity': identity} | ({'scope': scope} if scope else {})
        return self.send('POST', '/auth/tokens', json={'auth': auth})


def _was_not_sent(error: BaseException) -> bool:
    """Return whether no connection could be made."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NewConnectionError | ConnectTimeoutError):
            return True
        reason = getattr(seen, 'reason', None)
        first = seen.args[0] if seen.args else None
        if isinstance(reason, BaseException):
            seen = reason
        elif isinstance(first, BaseException):
            seen = first
        else:
            return False
    return False
