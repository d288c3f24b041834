# SPDX-License-Identifier: Apache-2.0
"""Keystone's WSGI application in a filter that belongs around it.

Serve ``keystone_cassandra_token.wsgi:application`` in the place of
``keystone.wsgi.api:application``; see :mod:`.wsgi_filter`.
"""

from __future__ import annotations

from keystone.wsgi import api

from keystone_cassandra_token.wsgi_filter import Filter

# Made by the import: uWSGI finds nothing that a module's __getattr__ makes.
application = Filter(api.application)
