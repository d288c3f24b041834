# SPDX-License-Identifier: Apache-2.0
"""The requests whose waits are told: one of each kind that clients send."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from lab.benchmark.regions.sites import Answer, Person, Site


class Cast(NamedTuple):
    """Who asks, and where.

    :ivar strict: the Keystone of the same region whose revocations wait for
        all regions.
    """

    site: Site
    strict: Site
    person: Person
    other: Person


class Operation(NamedTuple):
    """One request.

    :ivar prepare: makes what the request is about, while all is well.
    :ivar ask: sends the request about that.
    """

    kind: str
    name: str
    prepare: Callable[[Cast], Any]
    ask: Callable[[Cast, Any], Answer]


def _nothing(_: Cast) -> None:
    pass


def _token(cast: Cast) -> str:
    return cast.site.log_in_person(cast.person).good().token


def _strict_token(cast: Cast) -> str:
    return cast.strict.log_in_person(cast.person).good().token


def _revoke_strictly(cast: Cast, token: str) -> Answer:
    return cast.strict.revoke(token)


# -- what has a name: made, renamed, deleted

_PARENTS: dict[str, dict[str, Any]] = {
    'role': {'domain_id': None},
}


def _create(kind: str, cast: Cast) -> Answer:
    return cast.site.create(kind, **_PARENTS.get(kind, {}))


def _named(kind: str) -> tuple[Operation, ...]:
    def made(cast: Cast) -> str:
        found = _create(kind, cast).good().body[kind]
        return str(found['id'])

    def rename(cast: Cast, entity: str) -> Answer:
        body = {kind: {'name': uuid.uuid4().hex}}
        return cast.site.ask('PATCH', f'/{kind}s/{entity}', body)

    def delete(cast: Cast, entity: str) -> Answer:
        return cast.site.ask('DELETE', f'/{kind}s/{entity}')

    return (
        Operation(
            kind, 'create', _nothing, lambda cast, _: _create(kind, cast)
        ),
        Operation(kind, 'rename', made, rename),
        Operation(kind, 'delete', made, delete),
    )


# -- users

_Account = tuple[str, str]  # id and password


def _account(cast: Cast) -> _Account:
    password = secrets.token_urlsafe(16)
    made = cast.site.create('user', password=password).good()
    return made.body['user']['id'], password


def _disable(cast: Cast, account: _Account) -> Answer:
    return cast.site.update_user(account[0], enabled=False)


def _change_password(cast: Cast, account: _Account) -> Answer:
    user, password = account
    new = {
        'original_password': password,
        'password': secrets.token_urlsafe(16),
    }
    return cast.site.send(
        'POST', f'/users/{user}/password', body={'user': new}
    )


# -- application credentials

_Owned = tuple[str, Any]  # a token of the owner, and what was made


def _create_credential(cast: Cast, token: str) -> Answer:
    return cast.site.application_credential(cast.person, token)


def _credential(cast: Cast) -> _Owned:
    token = _token(cast)
    made = _create_credential(cast, token).good()
    return token, made.body['application_credential']


def _delete_credential(cast: Cast, owned: _Owned) -> Answer:
    token, made = owned
    path = f'/users/{cast.person.user}/application_credentials/{made["id"]}'
    return cast.site.send('DELETE', path, token)


# -- trusts


def _create_trust(cast: Cast, token: str) -> Answer:
    return cast.site.trust(cast.person, token, cast.other)


def _create_limited(cast: Cast, token: str) -> Answer:
    return cast.site.trust(cast.person, token, cast.other, remaining_uses=9)


def _trust(create: Callable[[Cast, str], Answer]) -> Callable[[Cast], _Owned]:
    def made(cast: Cast) -> _Owned:
        token = _token(cast)
        return token, create(cast, token).good().body['trust']['id']

    return made


def _use(cast: Cast, owned: _Owned) -> Answer:
    scope = {'OS-TRUST:trust': {'id': owned[1]}}
    return cast.site.log_in((cast.other.name, cast.other.password), scope)


def _delete_trust(cast: Cast, owned: _Owned) -> Answer:
    token, trust = owned
    return cast.site.send('DELETE', f'/OS-TRUST/trusts/{trust}', token)


# -- grants: a user's role on a project


def _grant(method: str) -> Callable[[Cast, str], Answer]:
    def ask(cast: Cast, user: str) -> Answer:
        path = f'/projects/{cast.person.project}/users/{user}/roles'
        return cast.site.ask(method, f'{path}/{cast.site.role}')

    return ask


def _user(cast: Cast) -> str:
    return _account(cast)[0]


def _granted(cast: Cast) -> str:
    user = _user(cast)
    _grant('PUT')(cast, user).good()
    return user


# -- the catalog


def _show_catalog(cast: Cast, token: str) -> Answer:
    return cast.site.send('GET', '/auth/catalog', token)


def _create_service(cast: Cast, _: None) -> Answer:
    name = uuid.uuid4().hex
    body = {'service': {'type': name, 'name': name}}
    return cast.site.ask('POST', '/services', body)


_CREDENTIAL = 'application credential'

#: In the order of the table.
OPERATIONS = (
    Operation(
        'token',
        'log in',
        _nothing,
        lambda cast, _: cast.site.log_in_person(cast.person),
    ),
    Operation('token', 'validate', _token, lambda c, it: c.site.validate(it)),
    Operation(
        'token',
        'issue for a project',
        _token,
        lambda cast, token: cast.site.rescope(cast.person, token),
    ),
    Operation('token', 'revoke', _token, lambda c, it: c.site.revoke(it)),
    Operation('token', 'revoke, strict mode', _strict_token, _revoke_strictly),
    *_named('user'),
    Operation('user', 'disable', _account, _disable),
    Operation('user', 'change password', _account, _change_password),
    Operation(
        'user', 'list', _nothing, lambda c, _: c.site.ask('GET', '/users')
    ),
    *_named('project'),
    *_named('group'),
    *_named('role'),
    Operation('grant', 'add', _user, _grant('PUT')),
    Operation('grant', 'remove', _granted, _grant('DELETE')),
    Operation(_CREDENTIAL, 'create', _token, _create_credential),
    Operation(
        _CREDENTIAL,
        'log in',
        _credential,
        lambda cast, owned: cast.site.log_in_by(owned[1]),
    ),
    Operation(_CREDENTIAL, 'delete', _credential, _delete_credential),
    Operation('trust', 'create', _token, _create_trust),
    Operation('trust', 'use', _trust(_create_trust), _use),
    Operation('trust', 'delete', _trust(_create_trust), _delete_trust),
    Operation('limited trust', 'create', _token, _create_limited),
    Operation('limited trust', 'use', _trust(_create_limited), _use),
    Operation(
        'limited trust', 'delete', _trust(_create_limited), _delete_trust
    ),
    Operation('catalog', 'show', _token, _show_catalog),
    Operation('catalog', 'create a service', _nothing, _create_service),
)
