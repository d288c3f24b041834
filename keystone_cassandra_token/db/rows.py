# SPDX-License-Identifier: Apache-2.0
"""Rows: the columns of a table, each said once; no I/O.

A :class:`Row` is the one place that lists a table's columns, with what
Keystone's SQL models say of them.  Statements interpolate it, ``compat``
checks and splits what is given by it, and tests compare it with the schema
and with the SQL models::

    TRUST = Row(id=text(64), expires_at=micros, extra=json_text)
    GET = read(f'SELECT {TRUST} FROM trust WHERE id = :id')
    INSERT = write(f'INSERT INTO trust ({TRUST}) VALUES ({TRUST.markers})')
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oslo_serialization import jsonutils

from keystone_cassandra_token.db import clock, errors


def _same(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: how its values are stored, and which it can have.

    A call makes another one of it: ``text(64, required=True)``.

    :ivar encode: returns a value as it is stored; never called with None.
    :ivar decode: returns a stored value as it was; never called with None.
    :ivar length: of the longest text, in characters; None is any.
    :ivar required: whether each row has a value here.
    :ivar secret: whether it is read where all of a row is wanted, only.
    :ivar is_map: whether it is a ``map``, to which a change adds entries.
    """

    encode: Callable[[Any], Any] = _same
    decode: Callable[[Any], Any] = _same
    length: int | None = None
    required: bool = False
    secret: bool = False
    is_map: bool = False

    def __call__(
        self,
        length: int | None = None,
        *,
        required: bool = False,
        secret: bool = False,
    ) -> Column:
        return dataclasses.replace(
            self, length=length, required=required, secret=secret
        )


#: In JSON what may be a surrogate, or a number of more than 64 bits.
_SUSPECT = re.compile(r'\\ud|\d{19}')


def _check_shown(value: Any) -> None:
    """Check that Keystone can show again what is stored as JSON.

    No answer can have a lone surrogate, and Keystone's cache, without which
    it reads nearly nothing, no number of more than 64 bits.  A thing with one
    of them, and each list that has it, would be 500 until it is gone.

    :raises ValueRefused: if not.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise errors.ValueRefused() from None
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise errors.ValueRefused()
    elif isinstance(value, Mapping):
        for name, each in value.items():
            _check_shown(name)
            _check_shown(each)
    elif isinstance(value, Iterable):
        for each in value:
            _check_shown(each)


def _dump_json(value: Any) -> str:
    # Sorted and compact, so that equal values have equal texts: some are
    # part of a primary key.  With what JSON lacks, as times, as keystone's
    # SQL model writes it.
    dumped: str = jsonutils.dumps(value, sort_keys=True, separators=(',', ':'))
    if _SUSPECT.search(dumped):
        _check_shown(value)
    return dumped


#: Stored as it is.
plain = Column()
#: String <-> ``text``, stored as it is.
text = Column()
#: Boolean <-> ``boolean``, stored as it is.
boolean = Column()
#: Whole number <-> ``int``: for Keystone's JSON schema 10.0 is one too.
number = Column(int)
#: Anything <-> ``text``, for what Keystone's JSON schema lets be no string.
any_text = Column(str)
#: Naive UTC ``datetime`` <-> ``bigint`` microseconds since 1970.
micros = Column(clock.to_micros, clock.from_micros)
#: ``date`` <-> ``text``, as ISO 8601 writes it.
iso_date = Column(datetime.date.isoformat, datetime.date.fromisoformat)
#: Anything JSON knows <-> ``text``.
json_text = Column(_dump_json, json.loads)
#: List of strings <-> ``frozen<list<text>>``.
text_list = Column(list, list)
#: Attributes of any kind <-> ``map<text, text>`` of JSON values, so that two
#: changes of different ones both survive.  Without any it is not stored.
json_map = Column(
    lambda value: {name: _dump_json(value[name]) for name in value} or None,
    lambda value: {name: json.loads(value[name]) for name in value},
    is_map=True,
)


class Row:
    """Columns of a table, in the order of its statements.

    Or of a part of it, or of what is stored in one of its columns.

    :ivar columns: each :class:`Column` by name.
    :ivar attributes: the names of those that Keystone has an attribute for:
        all but ``extra`` and other ``map`` columns.
    :ivar required: the names of those that each row has a value in.

    :param plain_columns: columns of which there is nothing to say.
    """

    def __init__(self, *plain_columns: str, **columns: Column) -> None:
        self.columns: Mapping[str, Column] = {
            **dict.fromkeys(plain_columns, plain),
            **columns,
        }
        self.attributes = tuple(
            name
            for name, column in self.columns.items()
            if name != 'extra' and not column.is_map
        )
        self.required = tuple(
            name for name, column in self.columns.items() if column.required
        )
        self._decoders = {
            name: column.decode
            for name, column in self.columns.items()
            if column.decode is not _same
        }

    @property
    def markers(self) -> str:
        """The columns as named markers: ``:id, :name``."""
        return ', '.join(f':{name}' for name in self.columns)

    def __str__(self) -> str:
        return ', '.join(self.columns)

    def __or__(self, other: Row) -> Row:
        return Row(**{**self.columns, **other.columns})

    def part(self, names: Iterable[str]) -> Row:
        """Return some of the columns as a row of their own.

        :raises KeyError: for a name that is no column.
        """
        return Row(**{name: self.columns[name] for name in names})

    def dump(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all columns as they are stored.

        A column that ``values`` lacks is None.

        :raises KeyError: for a name that is no column.
        """
        return dict.fromkeys(self.columns) | self.encode(values)

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return these values, of some columns, as they are stored.

        :raises KeyError: for a name that is no column.
        """
        unknown = values.keys() - self.columns.keys()
        if unknown:
            raise KeyError(f'no such columns: {", ".join(sorted(unknown))}')
        return {
            name: None if value is None else self.columns[name].encode(value)
            for name, value in values.items()
        }

    def load(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row that was read."""
        values = dict(stored)
        for name, decode in self._decoders.items():
            if values.get(name) is not None:
                values[name] = decode(values[name])
        return values
