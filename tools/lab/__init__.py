# SPDX-License-Identifier: Apache-2.0
"""The servers that the tools and the tests run against.

Everything here starts real programs on loopback addresses and stops them
again, also when the process that asked for them is killed.  The folder
``tools`` belongs on the module path, never ``tools/lab`` itself: its
``cassandra.py`` would hide the driver of the same name.
"""

from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
#: The checkout that this is part of.
CHECKOUT = str(TOOLS.parent)


class LabError(Exception):
    """Something the lab needs is missing or failed; the text says what."""
