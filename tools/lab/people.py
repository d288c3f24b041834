# SPDX-License-Identifier: Apache-2.0
"""Two people in a Keystone, who log in and trust each other."""

from __future__ import annotations

import datetime
import secrets

from lab.client import Client

_PROJECT = 'demo'


def soon(seconds: float) -> str:
    """Return the time in ``seconds`` as the trust API takes it."""
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(
        seconds=seconds
    )
    return when.strftime('%Y-%m-%dT%H:%M:%S.%fZ')


class People:
    """A project with two members, alice and bob, made through the API.

    :param admin: token of an administrator.
    """

    def __init__(self, client: Client, admin: str) -> None:
        self._client = client
        self.passwords = {
            name: secrets.token_urlsafe(12) for name in ('alice', 'bob')
        }
        project = {'name': _PROJECT, 'domain_id': 'default'}
        self.project: str = client.call(
            'POST', '/projects', admin, {'project': project}
        )['id']
        roles = client.request('GET', '/roles', admin).json()['roles']
        member = next(r['id'] for r in roles if r['name'] == 'member')
        self.ids: dict[str, str] = {}
        for name, password in self.passwords.items():
            user = {
                'name': name,
                'domain_id': 'default',
                'password': password,
            }
            made = client.call('POST', '/users', admin, {'user': user})
            self.ids[name] = made['id']
            client.call(
                'PUT',
                f'/projects/{self.project}/users/{made["id"]}/roles/{member}',
                admin,
                None,
            )

    def log_in(
        self,
        name: str,
        client: Client | None = None,
        worker: str | None = None,
    ) -> str:
        """Return a token of this person for the project."""
        return (
            (client or self._client)
            .log_in(
                name,
                self.passwords[name],
                worker,
                project_name=_PROJECT,
                project_domain_id='default',
            )
            .auth_token
        )

    def trust(self, token: str, client: Client, expires: str) -> str:
        """Let alice trust bob twice; return the trust's id."""
        trust = {
            'trustor_user_id': self.ids['alice'],
            'trustee_user_id': self.ids['bob'],
            'project_id': self.project,
            'impersonation': True,
            'roles': [{'name': 'member'}],
            'remaining_uses': 2,
            'expires_at': expires,
        }
        made = client.call('POST', '/OS-TRUST/trusts', token, {'trust': trust})
        return str(made['id'])

    def use_trust(
        self, trust: str, client: Client, worker: str | None = None
    ) -> str:
        """Return a token that bob gets from the trust."""
        return client.log_in(
            'bob', self.passwords['bob'], worker, trust_id=trust
        ).auth_token

    def remove(self, admin: str) -> None:
        """Delete the people and the project."""
        for user in self.ids.values():
            self._client.call('DELETE', f'/users/{user}', admin, None)
        self._client.call('DELETE', f'/projects/{self.project}', admin, None)
