# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx: no extension, no network, the default theme."""

project = 'keystone-cassandra-token'
author = 'keystone-cassandra-token contributors'
project_copyright = author

extensions: list[str] = []
exclude_patterns = ['_build']
highlight_language = 'none'
html_theme = 'alabaster'
html_theme_options = {'description': 'Keystone data in Apache Cassandra'}
