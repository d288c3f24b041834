# SPDX-License-Identifier: Apache-2.0
"""The manual is true where a machine can tell, and builds without warning."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import keystone.conf
import pytest
import yaml
from oslo_config import cfg, iniparser

from keystone_cassandra_token import conf
from keystone_cassandra_token.cmd import main
from keystone_cassandra_token.cmd import metrics as served
from keystone_cassandra_token.db import metrics
from keystone_cassandra_token.db.consistency import Operation
from tests import sweep

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / 'doc' / 'source'
PACKAGE = ROOT / 'keystone_cassandra_token'

OPTIONS = {
    f'{group}.{option.name}': (group, option)
    for group, options in conf.list_opts()
    for option in options
}

#: Sections of Keystone's options, with the option that chooses the driver.
SECTIONS = dict(conf.namespaces().values())

#: Sections that reno knows; a misspelt one would be left out of the report.
NOTE_SECTIONS = {
    'prelude',
    'features',
    'issues',
    'upgrade',
    'deprecations',
    'critical',
    'security',
    'fixes',
    'other',
}

#: What tells of the machine or the circumstances a file was written in.
#: Put together here, so that this file does not match itself.
FOREIGN = re.compile(
    '|'.join(
        (
            r'/(?:work|root|home)' + r'/\w',
            r'/tmp' + r'/\w',
            r'\bpypi\.' + r'org\b',
            r'\bpythonhosted\.' + r'org\b',
            r'\brepo1?\.maven\b|\bmaven\.' + r'apache\.org/(?!POM|xsd)',
            r'\bdeb\.' + r'debian\.org\b',
            r'\bpackages\.' + r'debian\.org\b',
        )
    )
)


#: The manual, and what stands at the top of the repository.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*SOURCE.rglob('*.rst'), *ROOT.glob('*.rst'))
)

#: Sections of others: oslo.middleware, keystonemiddleware, uWSGI.
OTHERS = {'healthcheck', 'keystone_authtoken', 'uwsgi'}
#: Of oslo.db, which is registered where there is SQL.
SQL_CONNECTION = ('database', 'connection')


def page(name: str) -> str:
    return (SOURCE / name).read_text('utf-8')


def text_of(name: str) -> str:
    """Return the text of a page, with commands on one line each."""
    text = (ROOT / name).read_text('utf-8')
    return re.sub(r'\\\n\s+', '', text)


def literals(name: str) -> list[str]:
    """Return what a page has in double backticks, on one line each."""
    found = re.findall(r'``(.+?)``', text_of(name), re.DOTALL)
    return [' '.join(each.split()) for each in found]


def current_tables() -> dict[str, str]:
    """Return the CQL of each table."""
    current = (PACKAGE / 'schema' / 'current.cql').read_text('utf-8')
    return {
        each[1]: each[0]
        for each in re.finditer(
            r'CREATE TABLE \{keyspace\}\."(\w+)" .*?;\n', current, re.DOTALL
        )
    }


def tracked() -> list[Path]:
    """Return the files of the project: in git, else all but the ignored."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '-c', '-o', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split('\0')
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


@sweep.over(OPTIONS)
def test_configuration_page_names_option(group, option):
    named = rf'``(?:\[{group}\] )?{re.escape(option.name)}``'
    assert re.search(named, page('configuration/index.rst'))


@sweep.over({option.name: (option,) for option in conf.consistency_opts})
def test_consistency_page_states_default(option):
    text = page('admin/consistency.rst')
    assert f'``{option.name}``' in text
    if isinstance(option.default, str):
        row = rf'- ``{option.name}``\n +- ``{option.default}``'
        assert re.search(row, text)


@pytest.mark.parametrize('section', SECTIONS)
def test_each_section_that_chooses_a_driver_is_told(section):
    option = SECTIONS[section]
    readme = (ROOT / 'README.rst').read_text('utf-8')
    assert re.search(
        rf'^    \[{section}\].*\n    {option} = {conf.DRIVER}$',
        readme,
        re.MULTILINE,
    )
    assert f'``[{section}]' in page('install/index.rst')


def test_configuration_page_states_defaults():
    text = page('configuration/index.rst')
    stated = dict(
        re.findall(r'^``(\w+)`` \((?:``)?([\w.]+)', text, re.MULTILINE)
    )
    assert 'port' in stated
    for option in conf.cassandra_opts:
        if option.name not in stated:
            continue
        default = option.default
        if default is None:
            assert stated[option.name] == 'unset', option.name
        elif isinstance(default, bool):
            assert stated[option.name] == str(default).lower(), option.name
        elif isinstance(default, (int, float)):
            assert float(stated[option.name]) == default, option.name
        else:
            assert stated[option.name] == default, option.name


def messages() -> str:
    """Return all string constants of the package, one below the other.

    What is put into a message at run time stands there as an ellipsis.
    """
    found = []
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    ''.join(
                        part.value if isinstance(part, ast.Constant) else '…'
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(
                node.value, str
            ):
                found.append(node.value)
    return '\n'.join(found)


def test_log_lines_are_of_the_code():
    lines = re.findall(
        r'^   \* - ``(.*)``$', page('admin/troubleshooting.rst'), re.MULTILINE
    )
    assert len(lines) > 20
    known = messages()
    for line in lines:
        for piece in line.split('…'):
            assert piece.strip(' ,:.()') in known, line


def test_sphinx_builds_without_warning(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q'),
            *('-d', tmp_path / 'doctrees', SOURCE, tmp_path / 'html'),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'html' / 'admin' / 'operations.html').exists()


def test_release_notes_have_known_sections():
    notes = sorted((ROOT / 'releasenotes' / 'notes').glob('*.yaml'))
    assert notes
    for note in notes:
        # As reno wants it: a slug and a random part.
        assert re.fullmatch(r'[a-z0-9-]+-[0-9a-f]{16}', note.stem), note.name
        content = yaml.safe_load(note.read_text('utf-8'))
        assert content.keys() <= NOTE_SECTIONS, note.name


@pytest.fixture(scope='module')
def known_options() -> cfg.ConfigOpts:
    """Return all options of Keystone and of this package."""
    keystone.conf.configure()
    conf.register_opts(keystone.conf.CONF)
    return keystone.conf.CONF


@pytest.mark.parametrize('name', PAGES)
def test_options_exist(name, known_options):
    for literal in literals(name):
        for section, option, wild in re.findall(
            r'\[(\w+)\] (\w+)(\*?)', literal
        ):
            if section in OTHERS or (section, option) == SQL_CONNECTION:
                continue
            there = known_options[section]
            found = [each for each in there if each.startswith(option)]
            assert found if wild else option in found, literal
        for option in re.findall(r'^(\w+_consistency)( =|$)', literal):
            assert option[0] in known_options.cassandra, literal


class Assignments(iniparser.BaseParser):
    """Collects what a piece of a configuration file sets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.section = ''
        self.parse(text.splitlines())

    def new_section(self, section):
        self.section = section

    def assignment(self, key, value):
        self.found.append((self.section, key, ' '.join(value)))

    def comment(self, comment):
        pass


def test_examples_of_configuration_are_right(known_options):
    blocks = [
        block
        for name in PAGES
        for block in re.findall(
            r'^\.\. code-block:: ini\n\n((?:    .*\n|\n)+)',
            text_of(name),
            re.MULTILINE,
        )
    ]
    assert len(blocks) > 3
    for block in blocks:
        for section, key, value in Assignments(textwrap.dedent(block)).found:
            # oslo.config takes a comment behind a value for a part of it.
            assert '#' not in value, block
            if section not in OTHERS:
                assert key in known_options[section], block


def subcommands(parser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def commands(name: str) -> Iterator[list[str]]:
    """Yield the arguments of each command of ours that a page names."""
    lines = re.findall(
        r'keystone-cassandra ([^`\n]*)', '\n'.join(literals(name))
    )
    lines += re.findall(
        r'^ +(?:\$ )?(?:kc|keystone-cassandra) (.*)$',
        text_of(name),
        re.MULTILINE,
    )
    for line in lines:
        words = shlex.split(line.rstrip("'."))
        while words[:1] == ['--config-file']:
            del words[:2]
        if words:
            yield words


@pytest.mark.parametrize('name', PAGES)
def test_commands_exist(name):
    top = argparse.ArgumentParser()
    main.add_commands(top.add_subparsers())
    for words in commands(name):
        parser, rest = top, words
        while rest and (known := subcommands(parser)):
            assert rest[0] in known, words
            parser, rest = known[rest[0]], rest[1:]
        options = {
            option
            for action in parser._actions
            for option in action.option_strings
        }
        for word in rest:
            if word.startswith('--'):
                assert word.partition('=')[0] in options, words


def test_the_commands_are_found():
    # Else the test above looks for the wrong thing.
    named = {words[0] for name in PAGES for words in commands(name)}
    assert named == {
        *('keyspace', 'schema', 'doctor', 'metrics', 'reconcile'),
        'region',
    }


def test_metrics_page_lists_all_of_them():
    rows = re.findall(
        r'^   \* - ``(\w+)``, (\w+)\n     - (.*?)\n     - (.*?)\n(?=   \*|\n)',
        page('admin/metrics.rst'),
        re.MULTILINE | re.DOTALL,
    )
    known = {
        metric.full_name.removeprefix(metrics.PREFIX): metric
        for metric in (*metrics.METRICS, *served.STATUS)
    }
    assert [row[0] for row in rows] == list(known)
    for name, kind, labels, text in rows:
        assert kind == known[name].kind.value
        assert ' '.join(text.split()) == known[name].text
        for label, values in known[name].labels.items():
            assert f'``{label}``' in labels
            if values is not None and label != 'operation':
                assert values <= set(re.findall(r'``(\w+)``', labels))


def test_tools_exist():
    for name in PAGES:
        for tool in re.findall(r'(?<!/)\btools/(\w+)', text_of(name)):
            assert (ROOT / 'tools' / tool).exists(), f'{name}: tools/{tool}'


@pytest.mark.parametrize(
    ('section', 'option'), conf.namespaces().values(), ids=conf.namespaces()
)
def test_each_driver_is_on_its_pages(section, option):
    table = rf'^   \* - ``\[{section}\] {option}``$'
    assert re.search(table, page('configuration/index.rst'), re.MULTILINE)
    readme = (ROOT / 'README.rst').read_text('utf-8')
    assert f'    [{section}]\n    {option} = cassandra\n' in readme
    cells = re.findall(r'^   \* - (.*)$', page('admin/consistency.rst'), re.M)
    assert sum(f'``[{section}]``' in cell for cell in cells) == 1


def test_data_model_page_states_keys():
    stated = dict(
        re.findall(
            r'^``(\w+)``\n    \| ``(PRIMARY KEY \(.*\))``$',
            page('admin/data-model.rst'),
            re.MULTILINE,
        )
    )
    tables = current_tables()
    assert stated.keys() == tables.keys()
    for name, cql in tables.items():
        assert f'    {stated[name]}\n' in cql, name


def test_repair_plan_names_each_table_once():
    plan = page('admin/operations.rst').split('.. _repair:')[1]
    rows = re.findall(
        r'^   \* - ((?:``.*\n +)+)- (10 days|1 day|3 hours)$',
        plan,
        re.MULTILINE,
    )
    planned = [
        (table, grace)
        for named, grace in rows
        for table in re.findall(r'``(\w+)``', named)
    ]
    tables = current_tables()
    assert sorted(table for table, _ in planned) == sorted(tables)
    for table, grace in planned:
        kept = re.search(r'gc_grace_seconds = (\d+)', tables[table])
        told = {'10800': '3 hours', '86400': '1 day', None: '10 days'}
        assert grace == told[kept and kept[1]], table


#: What the page *Extending* lists the files of.
EXTENDED = {
    'namespace': [section for section, _ in conf.namespaces().values()],
    'table': [
        name for name in current_tables() if not name.startswith('schema_')
    ],
    'class': [operation.value for operation in Operation],
}


def bullets(text: str) -> list[str]:
    return re.findall(r'^\* ``([^`]+)``:', text, re.MULTILINE)


@pytest.mark.parametrize('what', EXTENDED)
def test_extending_page_lists_all_files_that_name_each(what):
    text = page('contributor/extending.rst')
    listed = text.split(f'Each {what} is named in:\n')[1].split('\nAlso:')[0]
    names = set(EXTENDED[what])
    naming = []
    for path in tracked():
        if path.parent.name == 'migrations':
            continue  # what is there already is never changed
        try:
            words = set(re.findall(r'\w+', path.read_text('utf-8')))
        except UnicodeDecodeError:
            continue  # a picture
        if names <= words:
            naming.append(path.relative_to(ROOT).as_posix())
    assert sorted(bullets(listed)) == sorted(naming)


def test_extending_page_names_files_that_exist():
    named = bullets(page('contributor/extending.rst'))
    assert len(named) > 20
    for pattern in named:
        assert any(ROOT.glob(pattern)), pattern


def test_no_place_is_named():
    """No path of somebody's machine, no host of a package registry."""
    found = []
    for path in tracked():
        try:
            text = path.read_text('utf-8')
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN.search(line):
                name = path.relative_to(ROOT)
                found.append(f'{name}:{number}: {line.strip()}')
    assert not found, '\n'.join(found)


def test_readme_names_the_commands():
    readme = (ROOT / 'README.rst').read_text('utf-8')
    for command in 'tools/demo', 'tools/test':
        assert command in readme
        assert (ROOT / command).is_file(), command
