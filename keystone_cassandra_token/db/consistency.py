# SPDX-License-Identifier: Apache-2.0
"""The consistency policy: operation class -> consistency level.

A statement declares the class of operation it is; the class alone decides
its level here, so that an operator tunes classes by options and a driver
never names a level.  Levels are the driver's names (``LOCAL_QUORUM``); this
module does no I/O and does not import the driver.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any

from keystone_cassandra_token.db.findings import Finding, fail, warn


class Operation(enum.Enum):
    """Classes of operations; see :class:`Policy` for their levels."""

    TOKEN_READ = 'token_read'
    TOKEN_WRITE = 'token_write'
    REVOCATION_READ = 'revocation_read'
    REVOCATION_WRITE = 'revocation_write'
    READ = 'read'
    WRITE = 'write'
    #: Lightweight transactions over all datacenters: names, counted uses.
    LWT_GLOBAL = 'lwt_global'
    #: A serial read that settles the outcome of LWT_GLOBAL statements.
    LWT_GLOBAL_READ = 'lwt_global_read'
    #: Lightweight transactions of one datacenter: changes of one entity.
    LWT_LOCAL = 'lwt_local'
    #: A serial read that settles the outcome of LWT_LOCAL statements.
    LWT_LOCAL_READ = 'lwt_local_read'
    #: A read that must see what any datacenter has acknowledged.
    ESCALATED_READ = 'escalated_read'
    #: Records of migrations; always SERIAL.
    SCHEMA = 'schema'
    #: A serial read that settles the outcome of SCHEMA statements.
    SCHEMA_READ = 'schema_read'


#: Classes whose statements are compare-and-set.
CONDITIONAL = frozenset(
    {Operation.LWT_GLOBAL, Operation.LWT_LOCAL, Operation.SCHEMA}
)

#: What needs all datacenters, and takes its whole time while one is away.
WIDE = frozenset(
    {
        Operation.LWT_GLOBAL,
        Operation.LWT_GLOBAL_READ,
        Operation.ESCALATED_READ,
    }
)

#: What the request of a client reads once.
REMEMBERED = frozenset(
    {Operation.READ, Operation.TOKEN_READ, Operation.REVOCATION_READ}
)
#: What lets it go on remembering what it has read: nothing else that it reads
#: depends on a token that it issues.
LEAVES_REMEMBERED = REMEMBERED | {Operation.TOKEN_WRITE}

_OPTIONS = {
    Operation.TOKEN_READ: 'token_read_consistency',
    Operation.TOKEN_WRITE: 'token_write_consistency',
    Operation.REVOCATION_READ: 'revocation_read_consistency',
    Operation.REVOCATION_WRITE: 'revocation_write_consistency',
    Operation.READ: 'read_consistency',
    Operation.WRITE: 'write_consistency',
}

#: Reader and writer whose levels must overlap: what is written by the one is
#: seen by the other in the same datacenter, at once.
_READ_YOUR_WRITES = (
    (Operation.TOKEN_READ, Operation.TOKEN_WRITE),
    (Operation.REVOCATION_READ, Operation.REVOCATION_WRITE),
    (Operation.READ, Operation.WRITE),
)


@dataclasses.dataclass(frozen=True)
class Level:
    """Levels that a statement runs with; ``serial`` for conditional ones."""

    consistency: str
    serial: str | None = None


class Policy:
    """Levels of the operation classes.

    :param options: the values of the ``*_consistency`` options and of
        ``accept_local_one``, by option name.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._levels = dict(self._resolve())

    def _resolve(self) -> Iterator[tuple[Operation, Level]]:
        for operation, option in _OPTIONS.items():
            yield operation, Level(self._options[option])
        commit = self._options['write_consistency']
        global_serial = self._options['global_serial_consistency']
        local_serial = self._options['local_serial_consistency']
        yield Operation.LWT_GLOBAL, Level(commit, global_serial)
        yield Operation.LWT_LOCAL, Level(commit, local_serial)
        # A read at a serial level completes what is in progress first.
        yield Operation.LWT_GLOBAL_READ, Level(global_serial)
        yield Operation.LWT_LOCAL_READ, Level(local_serial)
        yield Operation.ESCALATED_READ, Level('EACH_QUORUM')
        yield Operation.SCHEMA, Level('LOCAL_QUORUM', 'SERIAL')
        yield Operation.SCHEMA_READ, Level('SERIAL')

    @classmethod
    def of_single_reads(cls, options: Mapping[str, Any]) -> Policy:
        """Return levels for reads by another datacenter's own nodes.

        Whatever the options say of reads here: they see what that one has
        acknowledged, and wait for no third.
        """
        near = 'LOCAL_QUORUM'
        return cls(
            {
                **options,
                'token_read_consistency': near,
                'read_consistency': near,
            }
        )

    def level(self, operation: Operation) -> Level:
        """Return the levels of a class of operations."""
        return self._levels[operation]

    def is_wide(self, operation: Operation) -> bool:
        """Return whether more datacenters than one must answer."""
        level = self.level(operation)
        return not (level.serial or level.consistency).startswith('LOCAL_')

    def fallback(self, operation: Operation) -> Level | None:
        """Return the level to keep a write at while a datacenter is away.

        Only revocations in the strict mode have one: they must stop tokens
        here even if another datacenter cannot be told now.
        """
        if (
            operation is Operation.REVOCATION_WRITE
            and self.level(operation).consistency == 'EACH_QUORUM'
        ):
            return Level('LOCAL_QUORUM')
        return None

    def describe(self) -> Iterator[tuple[str, str]]:
        """Yield each class and its levels, in words."""
        for operation, level in self._levels.items():
            serial = f', agreed on at {level.serial}' if level.serial else ''
            yield operation.value, f'{level.consistency}{serial}'

    def violations(
        self, replication: Mapping[str, int], local_dc: str | None = None
    ) -> Iterator[Finding]:
        """Check the levels against the keyspace's replication.

        :param replication: replicas by datacenter, e.g.
            ``{'dc1': 3, 'dc2': 3}``.
        :param local_dc: the datacenter of this server, if known.
        """
        yield from self._refusals()
        if not replication:
            yield fail(
                'replication',
                'The keyspace is not replicated by NetworkTopologyStrategy:'
                ' consistency by datacenter cannot be promised. Alter its'
                ' replication.',
            )
            return
        if local_dc is not None and local_dc not in replication:
            yield fail(
                'replication',
                f'The keyspace has no replica in datacenter {local_dc}, which'
                " is this server's ([cassandra] local_dc): add it by ALTER"
                ' KEYSPACE, then `nodetool rebuild` on its nodes.',
            )
        for reader, writer in _READ_YOUR_WRITES:
            yield from self._overlap(reader, writer, replication)
        for datacenter, replicas in sorted(replication.items()):
            if replicas == 1:
                yield warn(
                    'replication',
                    f'Datacenter {datacenter} keeps one replica: one lost'
                    ' node loses data and stops its servers. Use 3.',
                )
            elif replicas == 2:
                yield warn(
                    'replication',
                    f'Datacenter {datacenter} keeps two replicas: one lost'
                    ' node stops LOCAL_QUORUM there. Use 3.',
                )
        serials = self._options['global_serial_consistency']
        if serials == 'LOCAL_SERIAL' and len(replication) > 1:
            yield warn(
                'replication',
                '[cassandra] global_serial_consistency is LOCAL_SERIAL and the'
                ' keyspace spans several datacenters: names and trust uses'
                ' are exact only if one of them makes all changes.',
            )

    def _refusals(self) -> Iterator[Finding]:
        for option in _OPTIONS.values():
            if self._options[option] != 'LOCAL_ONE':
                continue
            if not self._options['accept_local_one']:
                yield fail(
                    'replication',
                    f'[cassandra] {option} is LOCAL_ONE: one lagging node'
                    ' could hide what was acknowledged. Use LOCAL_QUORUM, or'
                    ' set [cassandra] accept_local_one to accept that.',
                )

    def _overlap(
        self,
        reader: Operation,
        writer: Operation,
        replication: Mapping[str, int],
    ) -> Iterator[Finding]:
        read = self.level(reader).consistency
        write = self.level(writer).consistency
        if read == 'LOCAL_ONE' and self._options['accept_local_one']:
            return  # the operator accepted it explicitly
        for datacenter in sorted(replication):
            if not overlaps(read, write, datacenter, replication):
                yield fail(
                    'replication',
                    f'In datacenter {datacenter}, [cassandra]'
                    f' {_OPTIONS[reader]} = {read} does not always see what'
                    f' {_OPTIONS[writer]} = {write} acknowledged (R + W must'
                    f' exceed RF = {replication[datacenter]}). Raise one of'
                    ' them.',
                )


def overlaps(
    read: str, write: str, datacenter: str, replication: Mapping[str, int]
) -> bool:
    """Return whether a read surely meets a replica that has the write.

    Both are coordinated in ``datacenter``.  They meet if in some datacenter
    more replicas answer the two than it has, or in the whole cluster.
    """
    total = sum(replication.values())
    reads = _replicas(read, datacenter, replication)
    writes = _replicas(write, datacenter, replication)
    if _total(read, reads, total) + _total(write, writes, total) > total:
        return True
    return any(
        reads[name] + writes[name] > replicas
        for name, replicas in replication.items()
    )


def quorum(replicas: int) -> int:
    """Return how many of ``replicas`` are a quorum."""
    return replicas // 2 + 1


def _replicas(
    level: str, datacenter: str, replication: Mapping[str, int]
) -> dict[str, int]:
    """Return how many replicas of each datacenter surely take part."""
    total = sum(replication.values())
    counts = dict.fromkeys(replication, 0)
    if level == 'LOCAL_ONE':
        counts[datacenter] = 1
    elif level == 'LOCAL_QUORUM':
        counts[datacenter] = quorum(replication[datacenter])
    elif level == 'EACH_QUORUM':
        counts = {name: quorum(n) for name, n in replication.items()}
    elif level == 'QUORUM':
        # Any quorum of the whole: what the others cannot make up.
        counts = {
            name: max(0, quorum(total) - (total - n))
            for name, n in replication.items()
        }
    elif level == 'ALL':
        counts = dict(replication)
    else:
        raise ValueError(f'no such consistency level: {level}')
    return counts


def _total(level: str, counts: Mapping[str, int], total: int) -> int:
    return quorum(total) if level == 'QUORUM' else sum(counts.values())
