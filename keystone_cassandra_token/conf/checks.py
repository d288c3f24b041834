# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the options, before anything is opened."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token.conf.options import (
    DOLLAR,
    GROUP,
    NODES,
    cassandra_opts,
    is_substituted,
    list_opts,
)

_RESERVED = """
add allow alter and apply asc authorize batch begin by columnfamily create
delete desc describe drop entries execute from full grant if in index
infinity insert into is keyspace limit materialized modify nan norecursive
not null of on or order primary rename revoke schema select set table to
token truncate unlogged update use using view where with
"""
#: Words of CQL that name nothing without quotes, as of Cassandra 5.0.
RESERVED = frozenset(_RESERVED.split())

#: How options of ``[cassandra]`` may be written, old names too.
_NAMES = {
    name.replace('-', '_')
    for opt in cassandra_opts
    for name in (opt.name, *(old.name or '' for old in opt.deprecated_opts))
}


class ConfigurationError(Exception):
    """An option has a value that cannot work; the message names both."""


def check(conf: cfg.ConfigOpts) -> None:
    """Check what bounds on single options cannot say.

    :raises ConfigurationError: naming the option and what to set.
    """
    for problem in problems(conf):
        raise ConfigurationError(problem)


def secret(conf: cfg.ConfigOpts, name: str) -> str | None:
    """Return the value of a secret option of ``[cassandra]``.

    :raises ConfigurationError: if it cannot be read; no part of the value is
        in the message, nor in what a traceback shows.
    """
    # The environment goes before files, and has no hook of the option's.
    if not is_substituted(os.environ.get(f'OS_{GROUP}__{name}'.upper())):
        try:
            value: str | None = conf[GROUP][name]
        except (cfg.Error, ValueError):
            pass  # raised below, where nothing is chained to it
        else:
            return value
    raise ConfigurationError(f'[{GROUP}] {name}: {DOLLAR}')


def problems(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield what is wrong with the options, each text naming its option."""
    legible = True
    for group, opts in list_opts():
        for opt in opts:
            try:
                if opt.secret:
                    secret(conf, opt.dest)
                else:
                    getattr(conf[group], opt.dest)  # parsed on access only
            except ConfigurationError as error:
                legible = False
                yield str(error)
            except (cfg.Error, ValueError) as error:
                legible = False
                # oslo.config's first half is the place, as a Python object.
                cause = str(error).rpartition(' is not valid: ')[2]
                number = re.search(r"(?:int\(\)|to float).*: '(.*)'$", cause)
                if number:
                    cause = f'{number[1]} is no number'
                yield f'[{group}] {opt.name}: {cause.removesuffix(".")}.'
    if legible:
        yield from _conflicts(conf)


def unknown(conf: cfg.ConfigOpts) -> Iterator[str]:
    """Yield which options of the files are none, each with the nearest.

    oslo.config ignores them: a misspelt option keeps its default.
    """
    for path in config_files(conf):
        sections: dict[str, dict[str, Any]] = {}
        try:
            cfg.ConfigParser(str(path), sections).parse()
        except (cfg.Error, OSError, UnicodeError):
            continue  # whoever reads the configuration says so
        for section, values in sections.items():
            if section.lower() == GROUP:
                for name in values:
                    if name.replace('-', '_') not in _NAMES:
                        yield (
                            f'[{GROUP}] {name} in {path} is no option and has'
                            f' no effect{_nearest(name, _NAMES)}'
                        )
            elif section.lower() == 'database':
                for name in values:
                    if name.startswith(GROUP) and name != NODES:
                        yield (
                            f'[database] {name} in {path} is no option and has'
                            f' no effect: is {NODES} meant?'
                        )
            elif difflib.get_close_matches(section.lower(), [GROUP], 1, 0.8):
                yield (
                    f'[{section}] in {path} is no section and has no effect:'
                    f' is [{GROUP}] meant?'
                )


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.replace('-', '_'), names, 1)
    return f': is {found[0]} meant?' if found else '.'


def config_files(conf: cfg.ConfigOpts) -> list[Path]:
    """Return the files that were read, the last one winning."""
    found = [Path(name) for name in conf.config_file or ()]
    for folder in conf.config_dir or ():
        found += sorted(Path(folder).glob('*.conf'))
    return found


def _no_address(point: str) -> str | None:
    """Return what is wrong with a contact point, None if it may resolve."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(point)
        return None
    if '/' in point:
        return 'is a network or a URL: name the addresses of nodes.'
    if '[' in point or ']' in point:
        return (
            'has brackets: write an address of IPv6 without them, and the port'
            f' in [{GROUP}] port.'
        )
    if re.fullmatch(r'[^:]*:\d*', point):
        return (
            'has a port: write the address alone, and the port in'
            f' [{GROUP}] port, the same for all nodes.'
        )
    if not re.fullmatch(r'[\w.-]+', point):
        return 'is no address and no name of a host.'
    return None


def _conflicts(conf: cfg.ConfigOpts) -> Iterator[str]:
    for point in conf.database.cassandra_node_ips:
        wrong = _no_address(point)
        if wrong:
            yield f'[database] cassandra_node_ips: {point} {wrong}'
    if conf.cassandra.keyspace in RESERVED:
        yield (
            f'[{GROUP}] keyspace = {conf.cassandra.keyspace} is a reserved'
            ' word of CQL: choose another name.'
        )
    if not conf.database.cassandra_node_ips:
        yield (
            '[database] cassandra_node_ips is empty: set it to the addresses'
            ' of two or three Cassandra nodes of this region (datacenter).'
        )
    if conf.cassandra.username and not conf.cassandra.password:
        yield '[cassandra] username is set but [cassandra] password is not.'
    if bool(conf.cassandra.tls_cert_file) != bool(conf.cassandra.tls_key_file):
        yield (
            '[cassandra] tls_cert_file and tls_key_file go together: set'
            ' both, or neither.'
        )
    key = conf.cassandra.token_key
    if key is not None and len(key) < 32:
        yield (
            f'[cassandra] token_key has {len(key)} characters: it needs at'
            ' least 32, for instance from `openssl rand -hex 32`.'
        )
