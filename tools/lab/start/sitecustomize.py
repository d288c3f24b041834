# SPDX-License-Identifier: Apache-2.0
"""Lets Keystone start in two thirds of the time; run by Python at its start.

Keystone imports pysaml2, which reads the schemas of SAML as it is imported:
more than a second of work for something that hardly any process needs.  Here
they are read when a document is first compared with them.

Python finds this file where its folder is on the module path.
"""

import importlib
import sys
import types
from typing import Any

NAME = 'saml2.xml.schema'


class XMLSchemaError(Exception):
    """A document does not fit the schemas."""


def validate(doc: Any, validator: Any = None) -> None:
    """Compare a document with the schemas, as pysaml2 does."""
    if sys.modules.get(NAME) is _module:
        del sys.modules[NAME]
    real = importlib.import_module(NAME)
    try:
        real.validate(doc, validator)
    except real.XMLSchemaError as error:
        raise XMLSchemaError(*error.args) from error


_module = types.ModuleType(NAME)
vars(_module).update(XMLSchemaError=XMLSchemaError, validate=validate)
sys.modules.setdefault(NAME, _module)
