# SPDX-License-Identifier: Apache-2.0
"""The manual is true where a machine can tell, and builds without warning."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import yaml

from keystone_cassandra_token import conf
from keystone_cassandra_token.schema import files
from tests import sweep

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / 'doc' / 'source'
PACKAGE = ROOT / 'keystone_cassandra_token'

OPTIONS = {
    f'{group}.{option.name}': (group, option)
    for group, options in conf.list_opts()
    for option in options
}

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


def page(name: str) -> str:
    return (SOURCE / name).read_text('utf-8')


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
def test_configure_page_names_option(group, option):
    named = rf'``(?:\[{group}\] )?{re.escape(option.name)}``'
    assert re.search(named, page('configuration/index.rst'))


@sweep.over({option.name: (option,) for option in conf.consistency_opts})
def test_consistency_page_states_default(option):
    text = page('admin/consistency.rst')
    assert f'``{option.name}``' in text
    if isinstance(option.default, str):
        row = rf'- ``{option.name}``\n +- ``{option.default}``'
        assert re.search(row, text)


def test_configure_page_states_defaults():
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


def test_data_model_page_names_columns():
    text = page('admin/data-model.rst')
    tables = {}
    for migration in files.migrations():
        for statement in migration.statements('k'):
            created = re.match(
                r'CREATE TABLE IF NOT EXISTS k\."?(\w+)"? \((.*)\)\s+WITH',
                statement,
                re.DOTALL,
            )
            if created:
                tables[created[1]] = re.findall(
                    r'^\s+([a-z_]+) [a-z]', created[2], re.MULTILINE
                )
    assert 'token' in tables
    for table, columns in tables.items():
        assert re.search(rf'\b{table}\b', text), table
        for column in columns:
            assert re.search(rf'\b{column}\b', text), f'{table}.{column}'


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
