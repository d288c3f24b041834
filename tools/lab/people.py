# SPDX-License-Identifier: Apache-2.0
"""People in a Keystone, who log in and trust each other."""

import datetime
import secrets
from collections.abc import Iterable

from lab.client import Client


def soon(seconds: float) -> str:
    """Return the time in ``seconds`` as the trust API takes it."""
    later = datetime.timedelta(seconds=seconds)
    when = datetime.datetime.now(datetime.UTC) + later
    return when.strftime('%Y-%m-%dT%H:%M:%S.%fZ')


class People:
    """A project with members, made through the API.

    :param admin: token of an administrator.
    :param project: the project's name.
    :param names: of the members.
    """

    def __init__(
        self,
        client: Client,
        admin: str,
        project: str = 'demo',
        names: Iterable[str] = ('alice', 'bob'),
    ) -> None:
        self._client = client
        self._project = project
        self.passwords = {name: secrets.token_urlsafe(12) for name in names}
        wanted = {'name': project, 'domain_id': 'default'}
        made = client.call('POST', '/projects', admin, {'project': wanted})
        self.project: str = made['id']
        roles = client.request('GET', '/roles', admin).json()['roles']
        member = next(r['id'] for r in roles if r['name'] == 'member')
        self.ids: dict[str, str] = {}
        for name, password in self.passwords.items():
            user = {'name': name, 'domain_id': 'default', 'password': password}
            made = client.call('POST', '/users', admin, {'user': user})
            self.ids[name] = made['id']
            path = f'/projects/{self.project}/users/{made["id"]}/roles'
            client.call('PUT', f'{path}/{member}', admin, None)

    def log_in(
        self,
        name: str,
        client: Client | None = None,
        worker: str | None = None,
    ) -> str:
        """Return a token of this person for the project."""
        access = (client or self._client).log_in(
            name,
            self.passwords[name],
            worker,
            project_name=self._project,
            project_domain_id='default',
        )
        return access.auth_token

    def trust(
        self,
        token: str,
        client: Client,
        expires: str,
        trustor: str = 'alice',
        trustee: str = 'bob',
        uses: int | None = 2,
    ) -> str:
        """Let one trust another; return the trust's id.

        :param token: of the trustor.
        :param uses: None for as many as the trustee likes.
        """
        trust = {
            'trustor_user_id': self.ids[trustor],
            'trustee_user_id': self.ids[trustee],
            'project_id': self.project,
            'impersonation': True,
            'roles': [{'name': 'member'}],
            'remaining_uses': uses,
            'expires_at': expires,
        }
        made = client.call('POST', '/OS-TRUST/trusts', token, {'trust': trust})
        return str(made['id'])

    def use_trust(
        self,
        trust: str,
        client: Client,
        worker: str | None = None,
        trustee: str = 'bob',
    ) -> str:
        """Return a token that the trustee gets from the trust."""
        return client.log_in(
            trustee, self.passwords[trustee], worker, trust_id=trust
        ).auth_token

    def application_credential(
        self, token: str, client: Client, expires: str, name: str = 'alice'
    ) -> tuple[str, str]:
        """Make an application credential; return its id and secret.

        :param token: of the person whose it is.
        """
        secret = secrets.token_urlsafe(12)
        wanted = {'name': 'short', 'secret': secret, 'expires_at': expires}
        made = client.call(
            'POST',
            f'/users/{self.ids[name]}/application_credentials',
            token,
            {'application_credential': wanted},
        )
        return str(made['id']), secret

    def remove(self, admin: str) -> None:
        """Delete the people and the project."""
        for user in self.ids.values():
            self._client.call('DELETE', f'/users/{user}', admin, None)
        self._client.call('DELETE', f'/projects/{self.project}', admin, None)
