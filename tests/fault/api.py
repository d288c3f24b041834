# SPDX-License-Identifier: Apache-2.0
"""Keystone's API as its application serves it: routes, and their fields.

Derived from the application's map of URLs and from the JSON schemas of its
handlers.  What they do not say is said here, with a reason.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from keystone.auth import schema as auth
from keystone.federation import schema as federation
from keystone.oauth1 import schema as oauth1
from keystone.policy import schema as policy
from keystone.server.flask import application

#: What takes a request apart: ``('user', 'name')``, list items by number.
Path = tuple[str | int, ...]

SOON = '2037-01-01T00:00:00.000000Z'

_METHODS = {'GET', 'POST', 'PUT', 'PATCH', 'DELETE'}
_ARGUMENT = re.compile(r'<(?:\w+:)?(\w+)>')

#: Routes that are not tried.
LEFT_OUT = {
    '/static/<path:filename>': "Flask's own; Keystone has no such folder",
    '/v3/OS-FEDERATION/saml2/metadata': 'a file of the operator, not there',
}


class Known(str):
    """The name of what a :class:`World` knows the id of."""

    __slots__ = ()


def _of(kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {'type': 'object', 'required': [kind], 'properties': {kind: schema}}


def _texts(**several: Any) -> dict[str, Any]:
    """Return a schema of an object with these, texts unless said."""
    return {
        'type': 'object',
        'required': list(several),
        'properties': {
            name: schema or {'type': 'string'}
            for name, schema in several.items()
        },
    }


_TEXT: dict[str, Any] = {'type': 'string'}
_SECRETS = _texts(
    access=None,
    signature=None,
    host=None,
    verb=None,
    path=None,
    params={'type': 'object'},
    token=None,
    secret=None,
)
_CONFIG = _texts(ldap=_texts(url=None, user_tree_dn=None))
_RULES = {
    'rules': {
        'type': 'array',
        'items': _texts(
            local={'type': 'array', 'items': _texts(user=_texts(name=None))},
            remote={'type': 'array', 'items': _texts(type=None)},
        ),
    }
}

#: Bodies that the handlers declare no schema for; those that they check with
#: one of Keystone's have that.  By method and the end of the route.
UNDECLARED: dict[tuple[str, str], Mapping[str, Any]] = {
    ('POST', '/auth/tokens'): _of('auth', auth.token_issue),
    ('POST', '/saml2'): _of('auth', federation.saml_create),
    ('POST', '/saml2/ecp'): _of('auth', federation.saml_create),
    ('POST', '/consumers'): _of('consumer', oauth1.consumer_create),
    ('POST', '<string:consumer_id>'): _of('consumer', oauth1.consumer_create),
    ('PATCH', '/consumers'): _of('consumer', oauth1.consumer_update),
    ('PATCH', '<string:consumer_id>'): _of('consumer', oauth1.consumer_update),
    ('PUT', '<string:request_token_id>'): _of(
        'roles', oauth1.request_token_authorize
    ),
    ('POST', '/policies'): _of('policy', policy.policy_create),
    ('POST', '<string:policy_id>'): _of('policy', policy.policy_create),
    ('PATCH', '/policies'): _of('policy', policy.policy_update),
    ('PATCH', '<string:policy_id>'): _of('policy', policy.policy_update),
    ('PUT', '/mappings'): _of('mapping', _texts(**_RULES)),
    ('PATCH', '/mappings'): _of('mapping', _texts(**_RULES)),
    ('PUT', '<string:mapping_id>'): _of('mapping', _texts(**_RULES)),
    ('PATCH', '<string:mapping_id>'): _of('mapping', _texts(**_RULES)),
    ('PUT', '/config'): _of('config', _CONFIG),
    ('PATCH', '/config'): _of('config', _CONFIG),
    ('PATCH', '/config/<string:group>'): _of('config', _CONFIG),
    ('PATCH', '<string:option>'): _of('config', _texts(url=None)),
    ('POST', '/ec2tokens'): _of('credentials', _SECRETS),
    ('POST', '/s3tokens'): _of('credentials', _SECRETS),
    ('POST', '/OS-EC2'): _texts(tenant_id=None),
    ('POST', '/password'): _of(
        'user', _texts(password=None, original_password=None)
    ),
}

#: Routes whose body nobody reads, or reads as something else than JSON.
WITHOUT_BODY = [
    (r'PUT .*/roles/<string:role_id>(/inherited_to_projects)?', 'a grant'),
    (r'PUT .*/implies/.*', 'an inference'),
    (r'PUT .*/tags/<string:value>', 'a tag'),
    (r'PUT .*/OS-ENDPOINT-POLICY/.*', 'an association'),
    (r'PUT .*/OS-EP-FILTER/.*/<string:(project|endpoint)_id>', 'the same'),
    (r'PUT .*/groups/<string:group_id>/users/<string:user_id>', 'membership'),
    (r'POST .*/OS-OAUTH1/(request|access)_token', 'reads headers'),
    (r'\w+ .*/OS-OAUTH2/token', 'reads a form'),
    (r'POST .*/(auth|websso|websso/<string:protocol_id>)', 'reads a form'),
]

#: Query parameters of lists that no schema has.
_QUERY = ('limit', 'marker', 'name__contains', 'sort_key', 'id')

#: What else a field is, by its name.
_EXAMPLES: dict[str, Any] = {
    'auth_url': 'http://localhost/auth',
    'blob': '{"access": "a", "secret": "b"}',
    'default_limit': 10,
    'expires_at': SOON,
    'filters': {'interface': 'public'},
    'impersonation': False,
    'interface': 'public',
    'mapping_id': Known('mapping_id'),
    'methods': ['password'],
    'path': '/v2/*',
    'password': 'Secret-1',
    'remote_ids': ['remote'],
    'resource_limit': 1,
    'service': 'identity',
    'sp_url': 'http://localhost/sp',
    'trustor_user_id': Known('me'),
    'trustee_user_id': Known('user_id'),
    'type': 'cert',
    'url': 'http://localhost/',
}


@dataclasses.dataclass(frozen=True)
class Route:
    """One method of one URL.

    :ivar body: the JSON schema of its body, None if it has none.
    :ivar query: its query parameters.
    """

    method: str
    rule: str
    body: Mapping[str, Any] | None
    query: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        return _ARGUMENT.findall(self.rule)

    def path(self, values: Mapping[str, str]) -> str:
        return _ARGUMENT.sub(lambda found: values[found[1]], self.rule)

    def __str__(self) -> str:
        return f'{self.method} {self.rule}'


def all_routes() -> list[Route]:
    """Return all routes of the application, in order."""
    app = application.application_factory()
    found = []
    for rule in sorted(app.url_map.iter_rules(), key=str):
        function = app.view_functions[rule.endpoint]
        view = getattr(function, 'view_class', None)
        for method in sorted(rule.methods & _METHODS):
            handler = getattr(view, method.lower(), None)
            body = getattr(handler, '_request_body_schema', None)
            query = getattr(handler, '_request_query_schema', None) or {}
            if body is None and method not in ('GET', 'DELETE'):
                body = _undeclared(method, rule.rule)
            if method in ('GET', 'DELETE'):
                body = None
            names = (*query.get('properties', ()), *_QUERY)
            if method != 'GET':
                names = ()
            found.append(
                Route(method, rule.rule, body, tuple(dict.fromkeys(names)))
            )
    return found


def _undeclared(method: str, rule: str) -> Mapping[str, Any] | None:
    fitting = [
        end
        for known, end in UNDECLARED
        if known == method and rule.endswith(end)
    ]
    if not fitting:
        return None
    return UNDECLARED[method, max(fitting, key=len)]


def without_reason(routes: list[Route]) -> list[str]:
    """Return the routes that should have a body here, and have none."""
    return [
        str(route)
        for route in routes
        if route.body is None
        and route.method not in ('GET', 'DELETE')
        and not any(
            re.fullmatch(known, str(route)) for known, _ in WITHOUT_BODY
        )
    ]


def example(schema: Mapping[str, Any], name: str = '') -> Any:
    """Return what fits a schema, as far as it takes to be let in."""
    for several in ('oneOf', 'anyOf', 'allOf'):
        for one in schema.get(several, ())[:1]:
            schema = {**schema, **one}
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    if name == 'id' or name.endswith('_id'):
        return Known(name)
    if 'enum' in schema:
        return schema['enum'][0]
    kinds = schema.get('type', 'string')
    kind = kinds if isinstance(kinds, str) else kinds[0]
    if kind == 'object':
        properties = schema.get('properties', {})
        return {
            each: example(properties.get(each, {}), each)
            for each in schema.get('required', ())
        }
    if kind == 'array':
        return [example(schema.get('items', {}), '')]
    return {'boolean': True, 'integer': 1, 'number': 1, 'null': None}.get(
        kind, f'{name or "x"}-{uuid.uuid4().hex[:8]}'
    )


def fields(schema: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """Yield the place of each field of a body."""
    several = [
        schema,
        *(
            one
            for key in ('oneOf', 'anyOf', 'allOf')
            for one in schema.get(key, ())
        ),
    ]
    seen = set()
    for each in several:
        for name, inner in each.get('properties', {}).items():
            if name not in seen:
                seen.add(name)
                yield (*path, name)
                if isinstance(inner, Mapping):
                    yield from fields(inner, (*path, name))
        if isinstance(each.get('items'), Mapping):
            yield (*path, 0)
            yield from fields(each['items'], (*path, 0))


def with_value(body: Any, path: Path, value: Any) -> Any:
    """Return a body in which one field has another value."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        inner = body[0] if isinstance(body, list) and body else {}
        return [with_value(inner, tuple(rest), value)]
    made = dict(body) if isinstance(body, dict) else {}
    made[first] = with_value(made.get(first), tuple(rest), value)
    return made
