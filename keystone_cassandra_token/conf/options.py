# SPDX-License-Identifier: Apache-2.0
"""Options of the Cassandra drivers.

Contact points stand in ``[database]``, where the original specification of
Cassandra drivers for Keystone put them; everything else is in
``[cassandra]``.  Nothing is registered at import: :func:`register_opts` does
it for a ``ConfigOpts`` when the first driver of a process is built.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from typing import Any

from oslo_config import cfg

from keystone_cassandra_token.conf.region_options import region_opts

GROUP = 'cassandra'

#: The name of the drivers, in each of their namespaces.
DRIVER = 'cassandra'
#: Namespaces of Keystone whose section has another name.
_SECTIONS = {'id_mapping': 'identity_mapping'}

_QUORUMS = ('LOCAL_QUORUM', 'EACH_QUORUM', 'QUORUM', 'ALL')
_READS = ('LOCAL_ONE', *_QUORUMS)
_SERIALS = ('SERIAL', 'LOCAL_SERIAL')


DOLLAR = (
    'its value holds a `$` that oslo.config takes for the name of an option:'
    ' write `$$` for each `$`.'
)


class _SecretOpt(cfg.StrOpt):
    """A secret, into which no other option is ever substituted.

    oslo.config would put in the value of an option whose name follows a
    ``$``, and quotes what follows where there is none: a part of the secret.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, secret=True, **options)

    def _get_from_namespace(self, namespace: Any, group_name: Any) -> Any:
        value, location = super()._get_from_namespace(namespace, group_name)
        if is_substituted(value):
            raise ValueError(DOLLAR)
        return value, location


def is_substituted(value: object) -> bool:
    """Return whether oslo.config would put another option's value into it."""
    return isinstance(value, str) and bool(
        cfg.ConfigOpts.Template(
            value.replace(r'\$', '$$')  # as oslo.config does
        ).get_identifiers()
    )


def _level(
    name: str,
    default: str,
    choices: tuple[str, ...],
    text: str,
    deprecated_name: str | None = None,
) -> cfg.Opt:
    return cfg.StrOpt(
        name,
        default=default,
        choices=choices,
        help=text,
        deprecated_name=deprecated_name,
    )


database_opts: list[cfg.Opt] = [
    cfg.ListOpt(
        'cassandra_node_ips',
        default=[],
        help="""
Addresses of the Cassandra nodes to contact first, for instance
``10.0.0.1,10.0.0.2,10.0.0.3``. The driver learns all other nodes from them,
so two or three of the local datacenter are enough. Without port, brackets or
prefix length: the port is ``[cassandra] port``. While this is empty every
request that needs Cassandra is answered with 503.
""",
    ),
]

connection_opts: list[cfg.Opt] = [
    cfg.PortOpt(
        'port',
        default=9042,
        help="""
Port of Cassandra's native protocol, the same on all nodes.
""",
    ),
    cfg.StrOpt(
        'keyspace',
        default='keystone',
        regex=r'^[a-z][a-z0-9_]{0,47}$',
        help="""
Keyspace that holds the tables: 1 to 48 small letters, digits or underscores,
and no reserved word of CQL.
Make it with ``keystone-cassandra keyspace create``; servers never create it.
""",
    ),
    cfg.StrOpt(
        'local_dc',
        help="""
Cassandra datacenter (region) of this server; LOCAL_* consistency levels count
its replicas and only its nodes are sent requests. May be left out where the
cluster has one datacenter; with several, a server without it refuses to
guess and answers 503.
""",
    ),
    cfg.StrOpt(
        'username',
        help="""
Cassandra role to log in as. Unset means no authentication, which only fits a
cluster on a loopback address.
""",
    ),
    _SecretOpt(
        'password',
        help="""
Password of the role in ``username``. Write ``$$`` for a ``$`` in it: a ``$``
before a letter is refused, and never replaced by the value of an option.
""",
    ),
    cfg.BoolOpt(
        'tls_enabled',
        default=False,
        help="""
Whether connections to Cassandra use TLS. When false, credentials and data
cross the network in clear.
""",
    ),
    cfg.StrOpt(
        'tls_ca_file',
        help="""
PEM file of the authorities that signed the nodes' certificates. Unset means
the system's authorities. Used with ``tls_enabled``.
""",
    ),
    cfg.StrOpt(
        'tls_cert_file',
        help="""
PEM file of this server's certificate, for nodes that ask for one
(``require_client_auth``). Needs ``tls_key_file``.
""",
    ),
    cfg.StrOpt(
        'tls_key_file',
        help="""
PEM file of the private key of ``tls_cert_file``.
""",
    ),
    cfg.BoolOpt(
        'tls_verify_hostname',
        default=True,
        help="""
Whether a node's certificate must name the address that was contacted. When
false, any certificate of the authority is accepted for any node.
""",
    ),
    cfg.IntOpt(
        'protocol_version',
        default=5,
        min=4,
        max=5,
        help="""
Version of Cassandra's native protocol; all supported versions of Cassandra
know 5. A node that does not is refused.
""",
    ),
    cfg.FloatOpt(
        'connect_timeout',
        default=5.0,
        min=0.1,
        max=60.0,
        help="""
Seconds to wait for one connection to a node. A request that finds no session
waits at most for one attempt; for a second after a failed attempt further
requests fail at once.
""",
    ),
    cfg.FloatOpt(
        'request_timeout',
        default=5.0,
        min=0.1,
        max=120.0,
        help="""
Seconds after which a statement that got no answer is given up. While a
client's request is served, a first try gets at most half of what is left of
``request_deadline``.
""",
    ),
    cfg.FloatOpt(
        'request_deadline',
        default=5.0,
        min=0.5,
        max=600.0,
        help="""
Seconds in which all statements of one client's request must be answered; then
the request is answered with 503, whatever hangs. Commands have no such end.
""",
    ),
    cfg.FloatOpt(
        'speculative_delay',
        default=0.1,
        min=0.0,
        max=10.0,
        help="""
Seconds after which an unanswered read or plain write of the local datacenter
is sent to one further node as well; the first answer counts, and the slow
node is asked last for the next two seconds. So a node that hangs is hardly
noticed. 0 means never. A conditional statement is never doubled. A value near
the 99th percentile of your reads costs about one per cent more load.
""",
    ),
    cfg.StrOpt(
        'metrics_dir',
        help="""
Directory on this machine in which each process writes what it counts, for
``keystone-cassandra metrics``. Must be there, writable for the user of
Keystone's processes, and of this machine (or container) alone. Unset means
that nothing is counted.
""",
    ),
    cfg.IntOpt(
        'concurrency',
        default=16,
        min=1,
        max=256,
        help="""
Statements of one request that may be under way at once where a call reads
several partitions.
""",
    ),
]

schema_opts: list[cfg.Opt] = [
    cfg.StrOpt(
        'name_comparison',
        default='insensitive',
        choices=[
            ('insensitive', 'names differing in case only are one name'),
            ('sensitive', 'as PostgreSQL and SQLite compare'),
        ],
        help="""
How names are compared. It is recorded in the keyspace by the first
``keystone-cassandra schema apply`` and cannot be changed afterwards; a server
whose value differs from the recorded one answers 503.
""",
    ),
]

token_opts: list[cfg.Opt] = [
    _SecretOpt(
        'token_key',
        help="""
Secret of at least 32 characters, the same on every server. When set, tokens
are stored under HMAC-SHA256 of their id with this key, so that somebody who
can write the token table still cannot make a token. Unset means plain
SHA-256. Changing it ends all live tokens at once. Write ``$$`` for a ``$``
in it: a ``$`` before a letter is refused.
""",
    ),
    cfg.BoolOpt(
        'accept_untagged_ids',
        default=True,
        help="""
Whether ids of tokens and receipts without a tag are looked up. With
``token_key`` an id carries a tag that only who has the key can make; ids of
the former version have none. Set it to false once the last token of a server
of that version has ended: what was invented is refused then without any query,
here and in other regions. Without ``token_key`` there is no tag, and this has
no effect.
""",
    ),
    cfg.IntOpt(
        'trust_retention',
        default=86400,
        min=60,
        max=31536000,
        help="""
Seconds for which an expired trust stays readable (``deleted=True``) and
flushable before Cassandra drops it by itself.
""",
    ),
    cfg.IntOpt(
        'application_credential_retention',
        default=86400,
        min=60,
        max=31536000,
        help="""
Seconds for which an expired application credential stays in its user's list,
and its name taken, before Cassandra drops it by itself.
""",
    ),
]

consistency_opts: list[cfg.Opt] = [
    _level(
        'token_read_consistency',
        'LOCAL_QUORUM',
        _READS,
        """
Consistency level of reads of tokens and receipts. LOCAL_ONE may say "not
found" for a token just issued, and is refused unless ``accept_local_one``.
""",
    ),
    _level(
        'token_write_consistency',
        'LOCAL_QUORUM',
        _QUORUMS,
        """
Consistency level of writes of tokens and receipts.
""",
    ),
    _level(
        'revocation_read_consistency',
        'LOCAL_QUORUM',
        _READS,
        """
Consistency level of revocation checks. LOCAL_ONE can miss a revocation that
was acknowledged, and is refused unless ``accept_local_one``.
""",
    ),
    _level(
        'revocation_write_consistency',
        'LOCAL_QUORUM',
        _QUORUMS,
        """
Consistency level of revocations. EACH_QUORUM is the strict mode: a revocation
is only acknowledged once every region (datacenter) has it. While one cannot be
reached, the revocation is still written in this one, and the answer is 503;
the log names the other.
""",
    ),
    _level(
        'read_consistency',
        'LOCAL_QUORUM',
        _READS,
        """
Consistency level of all other reads. LOCAL_ONE is refused unless
``accept_local_one``.
""",
    ),
    _level(
        'write_consistency',
        'LOCAL_QUORUM',
        _QUORUMS,
        """
Consistency level of all other writes, and of the commit of conditional ones.
""",
    ),
    _level(
        'global_serial_consistency',
        'SERIAL',
        _SERIALS,
        """
Serial consistency level of lightweight transactions that count in the whole
deployment: unique names, the uses of a trust, and changes of roles, identity
providers, the catalog and policies. SERIAL is exact over all
regions (datacenters), but it costs two or three round trips between them and
is refused with 503 while this one is cut off. LOCAL_SERIAL is exact only if
one region makes all such changes: of two that count at LOCAL_SERIAL both
succeed. It is recorded in the keyspace by ``keystone-cassandra schema apply``;
a server whose value differs answers 503.
""",
        deprecated_name='claim_serial_consistency',
    ),
    _level(
        'local_serial_consistency',
        'LOCAL_SERIAL',
        _SERIALS,
        """
Serial consistency level of lightweight transactions on any other entity:
updates and deletes. LOCAL_SERIAL is exact within a region (datacenter). It is
recorded in the keyspace, too.
""",
        deprecated_name='mutate_serial_consistency',
    ),
    cfg.BoolOpt(
        'accept_local_one',
        default=False,
        help="""
Accept LOCAL_ONE for reads, and with it that one lagging node can hide a
revocation, a token or a trust.
""",
    ),
]

#: Option of ``[database]`` with the contact points.
NODES = 'cassandra_node_ips'

cassandra_opts = list(
    itertools.chain(
        connection_opts,
        schema_opts,
        token_opts,
        consistency_opts,
        region_opts,
    )
)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options by group, for ``oslo-config-generator``."""
    return [('database', database_opts), (GROUP, cassandra_opts)]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register all options on ``conf``; idempotent."""
    for group, opts in list_opts():
        conf.register_opts(opts, group=group)


def namespaces() -> dict[str, tuple[str, str]]:
    """Return the namespaces of Keystone that have a driver here.

    By entry point group, each with the section and the option of Keystone's
    configuration that choose the driver.
    """
    found = {}
    for entry in importlib.metadata.entry_points(name=DRIVER):
        host, *path = entry.group.split('.')
        if host == 'keystone':
            found[entry.group] = (
                (path[0], 'provider')
                if path[-1] == 'provider'
                else (_SECTIONS.get(path[-1], path[-1]), 'driver')
            )
    return found
