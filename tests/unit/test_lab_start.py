# SPDX-License-Identifier: Apache-2.0
"""The schemas of SAML are read when they are needed, and not before."""

import os
import subprocess
import sys
from pathlib import Path

from lab import start

_SCRIPT = """
import sys
import saml2.sigver
assert 'xmlschema' not in sys.modules
try:
    saml2.sigver.validate_doc_with_schema('<a/>')
except saml2.sigver.XMLSchemaError as error:
    print('refused:', error)
assert 'xmlschema' in sys.modules
"""


def test_they_are_read_at_the_first_use():
    folder = str(Path(start.__file__).parent)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _SCRIPT],
        env=os.environ | {'PYTHONPATH': folder},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('refused:'), done.stderr
