# SPDX-License-Identifier: Apache-2.0
"""Checks of the doctor: do Keystone's caches remember what has ended?"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

import oslo_cache.core
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.compat import caches as keystone_caches
from keystone_cassandra_token.db import changes, servers
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.findings import Finding, ok, warn
from keystone_cassandra_token.schema import keyspace

#: Backends that are in the memory of one process.
_OF_PROCESS = {
    'dogpile.cache.memory',
    'dogpile.cache.memory_pickle',
    'oslo_cache.dict',
}
#: Backends of one machine, whatever their options say.
_OF_MACHINE = {'dogpile.cache.dbm'}

#: By a part of the backend's name: the option that says where the cache is.
_PLACES = {
    'sentinel': 'redis_sentinels',
    'redis': 'redis_server',
    'memcache': 'memcache_servers',
    'pylibmc': 'memcache_servers',
}


def caches(connection: Connection, conf: cfg.ConfigOpts) -> Iterator[Finding]:
    """What has ended is not remembered longer than regions need to tell it."""
    name = 'caches'
    replicas = keyspace.replicas(connection)
    if replicas is None:
        return
    oslo_cache.core.configure(conf)
    lifetimes = keystone_caches.lifetimes(conf)
    problems = [
        *_in_region(connection, conf, lifetimes),
        *(_of_regions(conf, lifetimes) if len(replicas) > 1 else ()),
    ]
    for problem in problems:
        yield warn(name, problem)
    if problems:
        return
    backend = conf.cache.backend
    if not lifetimes:
        yield ok(name, 'Keystone remembers nothing beyond a request.')
    elif len(replicas) > 1:
        yield ok(
            name,
            f'[cache] backend = {backend}, and what other regions change is'
            ' dropped from it (follow_changes).',
        )
    else:
        yield ok(name, f'[cache] backend = {backend}.')


def _in_region(
    connection: Connection, conf: cfg.ConfigOpts, lifetimes: Mapping[str, int]
) -> Iterator[str]:
    """Yield why workers of one region remember what another has ended."""
    backend = conf.cache.backend
    if not lifetimes:
        return
    if backend in _OF_PROCESS:
        yield (
            f'[cache] backend = {backend} is in the memory of each process:'
            ' what one ends, as a token or a role, the others of its region'
            f' remember: {_told(lifetimes)}. Share a cache (memcached, redis),'
            ' or set caching = false in [token] and [role].'
        )
        return
    place = _place(conf)
    if place is None:
        return
    here = sorted(
        row['host']
        for row in connection.session.execute(
            servers.ALL.text(connection.keyspace)
        )
        if row['datacenter'] == connection.local_dc
    )
    if len(here) > 1:
        yield (
            f'{place} is on each machine for itself, and servers of this'
            f' region run on {", ".join(here)}: what one ends, as a token or'
            f' a role, the others remember: {_told(lifetimes)}. Share a cache.'
        )


def _place(conf: cfg.ConfigOpts) -> str | None:
    """Return which option puts the cache on each machine, None if none."""
    backend = conf.cache.backend
    if backend in _OF_MACHINE:
        return f'[cache] backend = {backend}'
    option = next((_PLACES[x] for x in _PLACES if x in backend), None)
    # Arguments go before it, and are secret.
    given = (each.split(':', 1)[0] for each in conf.cache.backend_argument)
    if option is None or 'url' in given or 'host' in given:
        return None
    value = conf.cache[option]
    several = [value] if isinstance(value, str) else value
    if not several or not all(map(_is_loopback, several)):
        return None
    return f'[cache] {option} = {",".join(several)}'


def _is_loopback(server: str) -> bool:
    """Return whether ``host:port`` is of the machine itself."""
    host = server.removeprefix('inet6:').removeprefix('inet:')
    host = host.rpartition(':')[0].strip('[]') or host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def _of_regions(
    conf: cfg.ConfigOpts, lifetimes: Mapping[str, int]
) -> Iterator[str]:
    """Yield why this region remembers what another one has ended."""
    if not conf.cassandra.follow_changes:
        yield (
            '[cassandra] follow_changes = false: what other regions revoke,'
            ' disable or take away is remembered here'
            f' ({_told(lifetimes) or "not beyond a request"}), and a'
            ' revocation that comes late does not stop whom this region let'
            ' in meanwhile. Set it to true.'
        )
        return
    untold = {
        section: f'[{driver}] driver = {conf[driver].driver}'
        for section, driver in keystone_caches.SECTIONS.items()
        if section in lifetimes and conf[driver].driver != options.DRIVER
    }
    if untold:
        remembered = {each: lifetimes[each] for each in untold}
        yield (
            f'{", ".join(sorted({*untold.values()}))}: regions do not tell'
            ' each other what is changed there. It is remembered here:'
            f' {_told(remembered)}. Keep it in Cassandra, or set caching ='
            ' false in these sections.'
        )
    long = {x: lifetimes[x] for x in lifetimes if lifetimes[x] > changes.TTL}
    if long:
        yield (
            f'{_told(long)}: regions follow for {changes.TTL} s what comes'
            ' late from another one that was cut off. Set cache_time to'
            f' {changes.TTL} or less.'
        )


def _told(lifetimes: Mapping[str, int]) -> str:
    """Return for how long what is remembered, in words."""
    by_time: dict[int, list[str]] = {}
    for section, seconds in lifetimes.items():
        by_time.setdefault(seconds, []).append(f'[{section}]')
    return '; '.join(
        f'{", ".join(by_time[seconds])} for {seconds} s'
        for seconds in sorted(by_time, reverse=True)
    )


CHECKS = (caches,)
