# SPDX-License-Identifier: Apache-2.0
"""Guards of the package, each with a test that fails without it.

``tools/mutations [WORDS]`` takes one guard out after the other, in a copy of
the checkout, and runs the tests that are named with it; a line says which of
them failed.  It ends with 1 if none does, or if a guard is not found.
``WORDS`` chooses the guards in whose names they are.  All take an hour.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests import guards, guards_of_regions
from tests.mutation import Mutation

ROOT = pathlib.Path(__file__).parents[1]

MUTATIONS = guards.GUARDS + guards_of_regions.GUARDS


def failing(mutation: Mutation, checkout: pathlib.Path) -> list[str]:
    """Return the tests that fail without a guard."""
    path = mutation.source(checkout)
    source = path.read_text('utf-8')
    path.write_text(source.replace(mutation.code, mutation.instead), 'utf-8')
    try:
        done = subprocess.run(
            f'{sys.executable} -m pytest -q -x {mutation.tests}',
            shell=True,
            cwd=checkout,
            env=os.environ | {'PYTHONPATH': f'{checkout}/tools:{checkout}'},
            capture_output=True,
            text=True,
        )
    finally:
        path.write_text(source, 'utf-8')
    return re.findall(r'^FAILED \S+::(\S+)', done.stdout, re.MULTILINE)


def copied(to: pathlib.Path) -> None:
    """Copy what belongs to the checkout."""
    listed = subprocess.check_output(
        'git ls-files -z --cached --others --exclude-standard',
        shell=True,
        cwd=ROOT,
        text=True,
    )
    for name in filter(None, listed.split('\0')):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def chosen(words: list[str]) -> Iterator[Mutation]:
    for each in MUTATIONS:
        if all(word in each.guard for word in words):
            yield each


def main(words: list[str]) -> int:
    survived = False
    with tempfile.TemporaryDirectory() as folder:
        checkout = pathlib.Path(folder)
        copied(checkout)
        for each in chosen(words):
            print(f'{each.guard}: ', end='', flush=True)
            found = failing(each, checkout)
            print(found[0] if found else 'NOTHING FAILS', flush=True)
            survived |= not found
    return int(survived)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
