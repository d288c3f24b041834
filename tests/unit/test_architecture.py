# SPDX-License-Identifier: Apache-2.0
"""Rules of the package's structure, read from its source."""

from __future__ import annotations

import ast
import configparser
import contextlib
import functools
import graphlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import keystone.application_credential.backends.sql
import keystone.catalog.backends.sql
import keystone.conf
import keystone.federation.backends.sql
import keystone.policy.backends.rules
import pytest

import keystone_cassandra_token
from keystone_cassandra_token import conf as options
from tests import sweep
from tests.conftest import LONG

keystone.conf.configure()

PACKAGE = Path(keystone_cassandra_token.__file__).parent
ROOT = PACKAGE.parent
NAME = PACKAGE.name

#: The only packages that may know cassandra-driver.
DRIVER_USERS = ('db', 'schema')

LEVELS = re.compile(
    r'\b((LOCAL|EACH)_QUORUM|QUORUM|(LOCAL_)?ONE|TWO|THREE|(LOCAL_)?SERIAL)\b'
)

LONGEST_MODULE = 500
LONGEST_CLASS = 400


def short(path: Path) -> str:
    """Return a module's name below the package."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


SOURCES = {short(path): path for path in sorted(PACKAGE.rglob('*.py'))}
DRIVERS = [name for name in SOURCES if name.startswith('drivers.')]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text('utf-8'))


def imported(module: ast.Module, typing_only: bool = True) -> set[str]:
    """Return the full names that a module imports, in functions too.

    :param typing_only: also what only a type checker sees.
    """
    found = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(module):
        if (
            not typing_only
            and isinstance(node, ast.If)
            and 'TYPE_CHECKING' in ast.dump(node.test)
        ):
            skipped.update(
                inner for part in node.body for inner in ast.walk(part)
            )
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            for alias in node.names:
                found.add(f'{node.module}.{alias.name}')
    return found


def own(name: str, typing_only: bool = True) -> set[str]:
    """Return the modules of the package that one of them imports."""
    found = set()
    for full in imported(tree(name), typing_only):
        if not full.startswith(NAME + '.'):
            continue
        rest = full.removeprefix(NAME + '.')
        found.add(rest if rest in SOURCES else rest.rpartition('.')[0])
    return found - {''}


def in_layer(name: str, layers: tuple[str, ...]) -> bool:
    return name.split('.')[0] in layers


def room(name: str) -> str:
    """Return the package, or the module beside them, that a module is in."""
    return name.split('.')[0]


def area(name: str) -> str:
    """Return the area of drivers that a module is in; '' for no area."""
    _, _, rest = name.partition('drivers.')
    return rest.split('.')[0]


def rooms(name: str) -> set[str]:
    return {room(other) for other in own(name)}


IN_DB = [name for name in SOURCES if room(name) == 'db']
ON_DB = [name for name in SOURCES if room(name) in ('schema', 'tables')]


@sweep.over(SOURCES.keys())
def test_only_the_lower_layers_know_the_driver(name: str) -> None:
    knows = any(
        full.split('.')[0] == 'cassandra' for full in imported(tree(name))
    )
    assert not knows or room(name) in DRIVER_USERS


def test_the_lower_layers_do_know_the_driver() -> None:
    # Else the test above looks for the wrong thing.
    for name in ('db.connection', 'db.sender', 'db.errors', 'schema.ddl'):
        assert any(
            full.split('.')[0] == 'cassandra' for full in imported(tree(name))
        )


@sweep.over(IN_DB)
def test_db_imports_conf_alone(name: str) -> None:
    assert rooms(name) <= {'db', 'conf'}


@sweep.over(ON_DB)
def test_schema_and_tables_import_db(name: str) -> None:
    assert rooms(name) <= {room(name), 'db', 'conf'}


@sweep.over(DRIVERS)
def test_no_area_of_drivers_imports_another(name: str) -> None:
    areas = {area(other) for other in own(name)} - {'', 'base'}
    assert areas <= {area(name)}


def test_arrows_go_one_way() -> None:
    """From conf up to what is run: healthcheck, wsgi, cmd."""
    floors = [
        {'conf'},
        {'db'},
        {'schema', 'tables'},
        {'compat', 'revocation_ttl'},
        {'drivers'},
        {'healthcheck', 'wsgi_filter', 'cmd'},
        {'wsgi'},
    ]
    for name in filter(None, SOURCES):
        (floor,) = (i for i, those in enumerate(floors) if room(name) in those)
        below = set().union({room(name)}, *floors[:floor])
        assert rooms(name) <= below, name


def test_imports_have_no_circle() -> None:
    graph = {name: own(name, typing_only=False) for name in SOURCES if name}
    graphlib.TopologicalSorter(graph).prepare()


def docstrings(module: ast.Module) -> set[ast.AST]:
    return {
        node.body[0].value
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


@sweep.over(DRIVERS)
def test_a_driver_names_no_consistency_level(name: str) -> None:
    module = tree(name)
    told = docstrings(module)
    for node in ast.walk(module):
        words = []
        if isinstance(node, ast.Constant) and node not in told:
            words = [node.value] if isinstance(node.value, str) else []
        elif isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        for word in words:
            assert not LEVELS.search(word), f'line {node.lineno}: {word}'


@sweep.over(DRIVERS)
def test_a_driver_does_not_reach_into_the_store(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and node.attr.startswith('_'):
            of = node.value
            assert not (isinstance(of, ast.Attribute) and of.attr == 'db')


#: What returns the outcome of a conditional write.
CONDITIONAL = {
    *('cas', '_cas', 'cas_batch'),
    *('cas_settled', 'cas_batch_settled'),
}


def discarded(module: ast.Module) -> Iterator[int]:
    """Yield the lines where the outcome of a conditional write is dropped."""
    for node in ast.walk(module):
        if not isinstance(node, ast.Expr):
            continue
        call = node.value
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in CONDITIONAL
        ):
            yield node.lineno
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id.startswith('_')
            for target in node.targets
        ):
            call = node.value
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr in CONDITIONAL
            ):
                yield node.lineno


@sweep.over(SOURCES.keys())
def test_the_outcome_of_a_conditional_write_is_used(name: str) -> None:
    assert list(discarded(tree(name))) == []


@pytest.mark.parametrize(
    ('source', 'lines'),
    [
        ('self.db.cas(X, id=1)', [1]),
        ('db.cas(X)', [1]),
        ('def f():\n    self._cas(X)', [2]),
        ('_ = db.cas(X)', [1]),
        ('db.cas_batch((X, {}))', [1]),
        ('if db.cas(X): pass', []),
        ('outcome = db.cas(X)', []),
        ('db.run(X)', []),
    ],
)
def test_a_dropped_outcome_is_noticed(source, lines) -> None:
    assert list(discarded(ast.parse(source))) == lines


def test_one_place_settles_what_is_unknown() -> None:
    catching = {
        name
        for name in SOURCES
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ExceptHandler)
        and node.type is not None
        and 'OutcomeUnknown' in ast.dump(node.type)
    }
    assert catching == {
        'db.outcome',
        # Tells others of what may have changed.
        'db.changes',
        # Before there is a schema there is no store.
        'schema.lease',
        # Puts up a fence where it stays unknown; keeps what it protects.
        'tables.entity',
        'tables.named',
        # Nobody minds an index row without its entity.
        'tables.index',
        # A batch of deletions: each is done, and settled, by itself then.
        'tables.association',
        'tables.batches',
        # Tells the operator.
        'tables.reconcile',
    }


@sweep.over(SOURCES.keys())
def test_sizes(name: str) -> None:
    lines = len(SOURCES[name].read_text('utf-8').splitlines())
    assert lines <= LONGEST_MODULE
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < LONGEST_CLASS, node.name


@sweep.over(SOURCES.keys())
def test_no_module_is_named_for_nothing(name: str) -> None:
    assert not {'utils', 'util', 'common', 'helpers', 'misc'} & set(
        name.split('.')
    )


def test_what_is_begun_first_is_there() -> None:
    missing = [name for name in LONG if not (ROOT / 'tests' / name).exists()]
    assert not missing


def entry_points() -> list[tuple[str, str, str]]:
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    found = []
    for group, lines in config['entry_points'].items():
        for line in lines.strip().splitlines():
            name, target = (part.strip() for part in line.split('='))
            found.append((group, name, target))
    return found


def loaded(target: str) -> object:
    module, _, attribute = target.partition(':')
    return getattr(importlib.import_module(module), attribute)


@sweep.over({' '.join(found): found for found in entry_points()})
def test_an_entry_point_loads(group, name, target) -> None:
    assert callable(loaded(target))


def is_driver(name: str) -> bool:
    """Return whether a module has a class that Keystone can load."""
    return name != 'drivers.base' and any(
        isinstance(node, ast.ClassDef)
        and any(
            isinstance(base, ast.Name) and base.id == 'Driver'
            for base in node.bases
        )
        for node in tree(name).body
    )


def test_every_driver_is_an_entry_point() -> None:
    named = {
        target.partition(':')[0].removeprefix(NAME + '.')
        for group, _, target in entry_points()
        if group.startswith('keystone.')
    }
    assert named == {name for name in DRIVERS if is_driver(name)}


def test_the_namespaces_are_those_of_the_entry_points() -> None:
    groups = {
        group
        for group, name, _ in entry_points()
        if group.startswith('keystone.') and name == options.DRIVER
    }
    # They are read from what is installed.
    assert options.namespaces().keys() == groups, 'install the package anew'
    for section, option in options.namespaces().values():
        assert option in keystone.conf.CONF[section]


CLASSES = {
    f'{group} {name}': loaded(target)
    for group, name, target in entry_points()
    if group.startswith('keystone.')
}
EACH_CLASS = {name: (cls,) for name, cls in CLASSES.items()}


def base_of(cls: type) -> type:
    """Return the base class of Keystone that a driver implements."""
    (base,) = (
        b for b in cls.__bases__ if b.__module__.startswith('keystone.')
    )
    return base


def shape(function: object) -> list[tuple[str, object, object]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


EACH_METHOD = {
    f'{driver}: {name}': (cls, name)
    for driver, cls in CLASSES.items()
    for name, member in inspect.getmembers(base_of(cls), inspect.isfunction)
    if not name.startswith('_') and name in vars(cls)
}


@sweep.over(EACH_CLASS)
def test_every_abstract_method_is_implemented(cls: type) -> None:
    assert base_of(cls).__abstractmethods__
    assert not cls.__abstractmethods__
    for name in base_of(cls).__abstractmethods__:
        assert name in vars(cls)


#: Where Keystone passes more than its base class says: the SQL driver tells.
FULLER = (
    {
        (
            'ApplicationCredential',
            name,
        ): keystone.application_credential.backends.sql.ApplicationCredential
        for name in (
            'create_application_credential',
            'list_access_rules_for_user',
        )
    }
    | {
        ('Federation', name): keystone.federation.backends.sql.Federation
        for name in ('update_mapping', 'list_idps', 'list_sps')
    }
    | {
        (
            'Catalog',
            'create_endpoint_group',
        ): keystone.catalog.backends.sql.Catalog,
        ('Policy', 'enforce'): keystone.policy.backends.rules.Policy,
    }
)


@sweep.over(EACH_METHOD)
def test_signatures_are_the_base_classs(cls: type, name: str) -> None:
    contract = FULLER.get((cls.__name__, name), base_of(cls))
    assert shape(getattr(cls, name)) == shape(getattr(contract, name))


UNDECLARED = {
    'ShadowUsers': {
        'delete_user',
        'add_user_to_group_expires',
        'cleanup_stale_group_memberships',
        'get_federated_users',
    },
    'Resource': {'list_projects_by_tags'},
}


@sweep.over(EACH_CLASS)
def test_a_driver_adds_no_public_method(cls: type) -> None:
    public = {
        name
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith('_')
    }
    # Keystone calls some methods that only its SQL driver has.
    assert public <= set(dir(base_of(cls))) | UNDECLARED.get(
        cls.__name__, set()
    )


@sweep.over(EACH_CLASS)
def test_methods_are_in_the_order_of_the_base_class(cls: type) -> None:
    theirs = [name for name in vars(base_of(cls)) if name in vars(cls)]
    ours = [
        name
        for name in vars(cls)
        if name in theirs and not name.startswith('_')
    ]
    assert ours == [name for name in theirs if not name.startswith('_')]


def private(module: ast.Module) -> set[str]:
    """Return the names with an underscore that a module makes."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(
            node.ctx, ast.Store
        ):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if re.match(r'_[^_]', name)}


def reached_for(module: ast.Module) -> set[str]:
    """Return the names that a module takes from others, or sets there."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) != 'self':
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and re.search(
            r'(attr|patch\w*)$', ast.unparse(node.func)
        ):  # setattr, monkeypatch.delattr, mock.patch ...
            found.update(
                str(value.value).rpartition('.')[2]
                for value in node.args
                if isinstance(value, ast.Constant)
            )
        elif isinstance(node, ast.Constant) and '\n' in str(node.value):
            with contextlib.suppress(SyntaxError):  # a script, or prose
                script = ast.parse(textwrap.dedent(str(node.value)))
                found |= reached_for(script)
    # A named tuple's is public.
    return found - private(module) - {'_replace'}


@pytest.mark.parametrize('folder', ['tests', 'tools'])
def test_nothing_private_of_the_package_is_used(folder: str) -> None:
    """What a test or a tool needs has a public name."""
    known = set().union(*(private(tree(name)) for name in SOURCES))
    assert '_start' in known
    used = {
        str(path.relative_to(ROOT)): sorted(names & known)
        for path in sorted((ROOT / folder).rglob('*.py'))
        if (names := reached_for(ast.parse(path.read_text('utf-8'))))
    }
    assert len(used) > 20
    assert {path: names for path, names in used.items() if names} == {}
