# SPDX-License-Identifier: Apache-2.0
"""What Keystone remembers is told of, and dropped.

Read from Keystone's own source, so that what a release remembers beside is not
forgotten.
"""

from __future__ import annotations

import ast
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keystone
import pytest
from dogpile.cache import make_region
from dogpile.cache.region import CacheRegion
from keystone.common import cache, provider_api
from keystone.common.cache import _context_cache

from keystone_cassandra_token.compat import caches
from keystone_cassandra_token.compat.caches import KeystoneCaches
from keystone_cassandra_token.db import changes
from keystone_cassandra_token.db.caches import Mark
from tests import entities

_ASSIGNMENTS = [
    *('grant_by_target', 'membership_by_user', 'expiring_membership'),
    *('role', 'implied_role', 'group', 'user', 'project'),
]
_CATALOG = ['region', 'service', 'endpoint']

#: What Keystone remembers, and the tables of which it is made.
REMEMBERED = {
    'application_credential.core get_application_credential': [
        'application_credential'
    ],
    'application_credential.core get_access_rule': ['access_rule'],
    'assignment.core get_roles_for_user_and_project': _ASSIGNMENTS,
    'assignment.core get_roles_for_trustor_and_project': _ASSIGNMENTS,
    'assignment.core get_roles_for_user_and_domain': _ASSIGNMENTS,
    'assignment.core list_projects_for_user': _ASSIGNMENTS,
    'assignment.core list_domains_for_user': _ASSIGNMENTS,
    'assignment.core list_role_assignments': _ASSIGNMENTS,
    'assignment.core get_role': ['role'],
    'catalog.core get_region': ['region'],
    'catalog.core get_service': ['service'],
    'catalog.core get_endpoint': ['endpoint'],
    'catalog.core get_v3_catalog': [
        *_CATALOG,
        'endpoint_group',
        'project_endpoint',
        'project_endpoint_group',
    ],
    'credential.core _list_credentials_for_user': ['credential'],
    'credential.core _get_credential': ['credential'],
    'federation.core get_enabled_service_providers': ['service_provider'],
    'identity.core get_user': ['user'],
    'identity.core get_user_by_name': ['user'],
    'identity.core get_group': ['group'],
    'identity.core _shadow_nonlocal_user': ['user'],
    'identity.core _get_public_id': ['id_mapping'],
    'identity.core get_id_mapping': ['id_mapping'],
    'limit.core get_registered_limit': ['registered_limit'],
    'limit.core get_limit': ['limit'],
    # Nothing ends one but its life.
    'receipt.provider _validate_receipt': [],
    'resource.core get_domain': ['project'],
    'resource.core get_domain_by_name': ['project'],
    'resource.core get_project': ['project'],
    'resource.core get_project_by_name': ['project'],
    'resource.core get_config_with_sensitive_info': ['domain_config'],
    'revoke.core _list_events': ['revocation'],
    'token.provider check_revocation_v3': ['revocation'],
    'token.provider _validate_token': ['revocation', *_ASSIGNMENTS],
}
#: Told by their drivers, and there is nothing to make readable.
_UNFETCHED = {'id_mapping'}

ROOT = Path(keystone.__file__).parent


def remembered() -> Iterator[str]:
    for path in sorted(ROOT.rglob('core.py')) + sorted(
        ROOT.rglob('provider.py')
    ):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(each).startswith('MEMOIZE')
                for each in node.decorator_list
            ):
                yield f'{module} {node.name}'


def test_all_that_keystone_remembers_is_known() -> None:
    assert sorted(remembered()) == sorted(REMEMBERED)


def groups() -> set[str]:
    """Return the sections whose ``caching`` and ``cache_time`` count."""
    return {
        each.value.value
        for path in ROOT.rglob('*.py')
        if 'tests' not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith('get_memoization_decorator')
        for each in node.keywords
        if each.arg == 'group' and isinstance(each.value, ast.Constant)
    }


def test_all_sections_that_remember_are_known() -> None:
    # Nothing ends a receipt but its life.
    assert groups() == {*caches.SECTIONS, 'receipt'}


def test_changes_of_it_are_told() -> None:
    tables = {each for several in REMEMBERED.values() for each in several}
    assert tables <= changes.FETCH.keys() | _UNFETCHED
    untold = {name for name, each in entities.ALL.items() if not each.told}
    assert not tables & untold
    # Of all else nobody is told: caches elsewhere are not dropped for it.
    assert untold == {
        'identity_provider',
        'mapping',
        'policy',
        'policy_association',
        'consumer',
    }


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the regions that are dropped."""
    found: list[str] = []

    def invalidate(region: CacheRegion, hard: bool = True) -> None:
        found.append(region.name)

    monkeypatch.setattr(CacheRegion, 'invalidate', invalidate)
    always = property(lambda _: True)
    monkeypatch.setattr(CacheRegion, 'is_configured', always)
    return found


def regions() -> set[str]:
    """Return the names of Keystone's cache regions."""
    return {
        node.args[0].value if node.args else node.keywords[0].value.value
        for path in ROOT.rglob('*.py')
        if 'tests' not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith('create_region')
        and node.keywords
        and isinstance(node.keywords[0].value, ast.Constant)
    }


def test_all_regions_are_dropped(dropped: list[str], conf: Any) -> None:
    KeystoneCaches(conf).drop_all()
    assert {*dropped} == regions() - {'invalidation region'}


def test_a_revocation_drops_what_it_does_in_keystone(
    dropped: list[str], conf: Any
) -> None:
    own = KeystoneCaches(conf)
    own.drop({'revocation': [{}]})
    assert {*dropped} == {'tokens', 'revoke'}
    own.drop({'revocation': [{}], 'user': [{'id': '1'}]})
    assert {*dropped} == regions() - {'invalidation region'}


def test_what_users_change_of_their_own_drops_that_alone(
    dropped: list[str], conf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[object, ...]] = []

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        def invalidate(self, manager: object, *key: object) -> None:
            told.append((self.name, *key))

    manager = types.SimpleNamespace(
        **{
            name: Function(name)
            for name in (
                'get_application_credential',
                'get_access_rule',
                '_get_credential',
                '_list_credentials_for_user',
            )
        }
    )
    apis = types.SimpleNamespace(
        application_credential_api=manager, credential_api=manager
    )
    monkeypatch.setattr(provider_api, 'ProviderAPIs', apis)
    KeystoneCaches(conf).drop(
        {
            'application_credential': [{'id': '1'}],
            'access_rule': [{'id': '2', 'user_id': 'u'}],
            'credential': [{'id': '3', 'user_id': 'u', 'type': 'totp'}],
        }
    )
    assert not dropped
    assert set(told) == {
        ('get_application_credential', '1'),
        ('get_access_rule', '2', 'u'),
        ('_get_credential', '3'),
        ('_list_credentials_for_user', 'u', 'totp'),
        ('_list_credentials_for_user', 'u', None),
    }


def test_these_functions_are_keystones() -> None:
    for manager, names in (
        ('application_credential', ['get_application_credential']),
        ('application_credential', ['get_access_rule']),
        ('credential', ['_get_credential', '_list_credentials_for_user']),
    ):
        for name in names:
            assert f'{manager}.core {name}' in REMEMBERED


def test_processes_that_share_a_cache_see_each_others_marks(
    conf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = {}

    def process() -> CacheRegion:
        region = make_region().configure(
            'dogpile.cache.memory', arguments={'cache_dict': shared}
        )
        region.wrap(_context_cache._ResponseCacheProxy)
        return region

    own = KeystoneCaches(conf)
    regions = process(), process()
    marks = [
        Mark(1_800_000_000_000_000 + n, frozenset([uuid.uuid1()]), gap)
        for n, gap in enumerate([None, 5])
    ]
    for region, mark in zip(regions, marks, strict=True):
        monkeypatch.setattr(cache, 'CACHE_INVALIDATION_REGION', region)
        own.begin()
        own.set_mark('one', mark)
    assert own.mark('one') == marks[1]
    monkeypatch.setattr(cache, 'CACHE_INVALIDATION_REGION', regions[0])
    own.begin()  # else it is what this one has set
    assert own.mark('one') == marks[1]
    assert own.mark('two') is None


@pytest.mark.parametrize(
    ('enabled', 'backend', 'expected'),
    [
        (True, 'dogpile.cache.memcached', True),
        (True, 'dogpile.cache.null', False),
        (False, 'dogpile.cache.memcached', False),
    ],
)
def test_whether_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
    backend: str,
    expected: bool,
) -> None:
    region = types.SimpleNamespace(is_configured=True)
    monkeypatch.setattr(caches.cache, 'CACHE_INVALIDATION_REGION', region)
    conf: Any = types.SimpleNamespace(
        cache=types.SimpleNamespace(enabled=enabled, backend=backend),
    )
    assert KeystoneCaches(conf).are_used() is expected


@pytest.fixture
def conf() -> Any:
    return keystone.conf.CONF
