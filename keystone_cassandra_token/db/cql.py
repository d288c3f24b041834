# SPDX-License-Identifier: Apache-2.0
"""Statements: CQL text with its class of operation; no I/O.

A statement is a constant of the module that uses it, made by the constructor
that is named after its class::

    GET = read(f'SELECT {TRUST} FROM trust WHERE id = :id')

Table names are written bare; the keyspace is put in front of them when the
statement is prepared (``FROM``, ``INTO``, ``UPDATE``), since the keyspace is
an option and statements are constants.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from keystone_cassandra_token.db.consistency import CONDITIONAL, Operation

_MARKER = re.compile(r'(?<![\w:]):([a-z_][a-z0-9_]*)')
_TABLE = re.compile(r'\b(FROM|INTO|UPDATE)\s+([a-z_][a-z0-9_]*)')
_CONDITION = re.compile(r'\bIF\s')


@dataclasses.dataclass(frozen=True, eq=False)
class Statement:
    """One CQL statement.

    Compared by identity: two equal texts in two places are two statements.

    :ivar cql: the text with bare table names and named markers.
    :ivar operation: the class that decides its consistency level.
    :ivar idempotent: whether sending it twice equals sending it once.
    :ivar full_scan: whether it reads a whole table.
    :ivar paged: whether its rows come page by page.  Cassandra reads the
        partitions that an IN names one after the other then, and side by
        side otherwise.
    :ivar resent: whether it is sent once more where its outcome is unknown,
        if it is conditional.
    """

    cql: str
    operation: Operation
    idempotent: bool = True
    full_scan: bool = False
    paged: bool = True
    resent: bool = True

    def __post_init__(self) -> None:
        conditional = bool(_CONDITION.search(self.cql))
        if conditional != (self.operation in CONDITIONAL):
            raise ValueError(
                'conditional statements, and no others, are lwt_global or'
                f' lwt_local: {self.cql}'
            )

    @functools.cached_property
    def binds(self) -> frozenset[str]:
        """Names of the markers."""
        return frozenset(_MARKER.findall(self.cql))

    @functools.cached_property
    def table(self) -> str:
        """The table it reads or writes."""
        found = _TABLE.search(self.cql)
        if found is None:
            raise ValueError(f'no table in: {self.cql}')
        return found[2]

    @functools.cached_property
    def verb(self) -> str:
        """``SELECT``, ``INSERT``, ``UPDATE`` or ``DELETE``."""
        return self.cql.split(None, 1)[0]

    def text(self, keyspace: str) -> str:
        """Return the CQL with fully qualified table names."""
        # Quoted, since "token" is a word of CQL.
        return _TABLE.sub(rf'\1 {keyspace}."\2"', self.cql)

    def check(self, names: Collection[str]) -> None:
        """Check that ``names`` are exactly the markers.

        The Python driver turns a missing name into "unset" and ignores one
        too many, so that a typo would be lost data.

        :raises TypeError: if not.
        """
        if self.binds != set(names):
            wrong = sorted(self.binds.symmetric_difference(names))
            raise TypeError(f'{", ".join(wrong)} do not fit: {self.cql}')

    def expiring(self) -> Statement:
        """Return this INSERT or UPDATE with ``USING TTL :ttl``."""
        if self.verb not in ('INSERT', 'UPDATE') or 'USING' in self.cql:
            raise ValueError(f'cannot add a TTL to: {self.cql}')
        text = f'{self.cql} USING TTL :ttl'
        if self.verb == 'UPDATE':
            text = self.cql.replace(' SET ', ' USING TTL :ttl SET ', 1)
        return dataclasses.replace(self, cql=text)

    def sent_once(self) -> Statement:
        """Return this conditional write, of which two could both be applied.

        The second one at once, and the first one late.
        """
        return dataclasses.replace(self, resent=False)

    def unpaged(self) -> Statement:
        """Return this read of several partitions with few rows."""
        if ' IN :' not in self.cql:
            raise ValueError(f'one partition, or all: {self.cql}')
        return dataclasses.replace(self, paged=False)

    def __str__(self) -> str:
        return self.cql


def token_read(cql: str) -> Statement:
    """Return a read of a token or receipt."""
    return Statement(cql, Operation.TOKEN_READ)


def token_write(cql: str) -> Statement:
    """Return a write of a token or receipt."""
    return Statement(cql, Operation.TOKEN_WRITE)


def revocation_read(cql: str) -> Statement:
    """Return a read of revocations."""
    return Statement(cql, Operation.REVOCATION_READ)


def revocation_write(cql: str) -> Statement:
    """Return a write of a revocation."""
    return Statement(cql, Operation.REVOCATION_WRITE)


def read(cql: str) -> Statement:
    """Return a read of known partitions."""
    return Statement(cql, Operation.READ)


def scan(cql: str) -> Statement:
    """Return a read of a whole table; say why beside it."""
    return Statement(cql, Operation.READ, full_scan=True)


def write(cql: str) -> Statement:
    """Return a plain write."""
    return Statement(cql, Operation.WRITE)


def lwt_global(cql: str) -> Statement:
    """Return a lightweight transaction that counts in all datacenters."""
    return Statement(cql, Operation.LWT_GLOBAL, idempotent=False)


def lwt_global_read(cql: str) -> Statement:
    """Return a read that settles the outcome of :func:`lwt_global`."""
    return Statement(cql, Operation.LWT_GLOBAL_READ)


def lwt_local(cql: str) -> Statement:
    """Return a lightweight transaction of one datacenter."""
    return Statement(cql, Operation.LWT_LOCAL, idempotent=False)


def lwt_local_read(cql: str) -> Statement:
    """Return a read that settles the outcome of :func:`lwt_local`."""
    return Statement(cql, Operation.LWT_LOCAL_READ)


def escalated_read(cql: str) -> Statement:
    """Return a read that sees what any datacenter acknowledged."""
    return Statement(cql, Operation.ESCALATED_READ)


def escalated_scan(cql: str) -> Statement:
    """Return an escalated read of a whole table; say why beside it."""
    return Statement(cql, Operation.ESCALATED_READ, full_scan=True)


def schema_change(cql: str) -> Statement:
    """Return a lightweight transaction of the schema tool's records."""
    return Statement(cql, Operation.SCHEMA, idempotent=False)


def schema_read(cql: str) -> Statement:
    """Return a read that settles the outcome of :func:`schema_change`."""
    return Statement(cql, Operation.SCHEMA_READ)


def of_one_class(
    steps: Iterable[tuple[Statement, Mapping[str, Any]]],
) -> Statement:
    """Return the first statement of a batch, which stands for all.

    :raises TypeError: if they are of several classes.
    """
    statements = [statement for statement, _ in steps]
    if len({each.operation for each in statements}) != 1:
        raise TypeError('the statements of a batch are of one class')
    return statements[0]


def check_conditional(statement: Statement) -> None:
    """Check that a statement is conditional.

    :raises TypeError: if not.
    """
    if statement.operation not in CONDITIONAL:
        raise TypeError(f'not conditional: {statement}')


def check_plain(statement: Statement) -> None:
    """Check that a statement is not conditional.

    :raises TypeError: if it is: the result of its condition would be lost.
    """
    if statement.operation in CONDITIONAL:
        raise TypeError(f'conditional, for cas() only: {statement}')
