# SPDX-License-Identifier: Apache-2.0
"""Rows: the columns of a table and how their values are stored; no I/O.

A :class:`Row` is the one place that lists a table's columns; statements
interpolate it, and a test compares it with the schema::

    TRUST = Row('id', 'trustor_user_id', expires_at=micros, extra=json_text)
    GET = read(f'SELECT {TRUST} FROM trust WHERE id = :id')
    INSERT = write(f'INSERT INTO trust ({TRUST}) VALUES ({TRUST.markers})')
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from oslo_serialization import jsonutils

from keystone_cassandra_token.db import clock


@dataclasses.dataclass(frozen=True)
class Codec:
    """How a value is stored.  None is never passed to either function."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _dump_json(value: Any) -> str:
    # Sorted and compact, so that equal values have equal texts: some are
    # part of a primary key.  With what JSON lacks, as times, as keystone's
    # SQL model writes it.
    text: str = jsonutils.dumps(value, sort_keys=True, separators=(',', ':'))
    return text


#: Stored as it is.
plain = Codec(_same, _same)
#: Whole number <-> ``int``: for Keystone's JSON schema 10.0 is one too.
number = Codec(int, _same)
#: Anything <-> ``text``, for what Keystone's JSON schema lets be no string.
text = Codec(str, _same)
#: Naive UTC ``datetime`` <-> ``bigint`` microseconds since 1970.
micros = Codec(clock.to_micros, clock.from_micros)
#: ``date`` <-> ``text``, as ISO 8601 writes it.
iso_date = Codec(datetime.date.isoformat, datetime.date.fromisoformat)
#: Anything JSON knows <-> ``text``.
json_text = Codec(_dump_json, json.loads)
#: List of strings <-> ``frozen<list<text>>``.
text_list = Codec(list, list)
#: Attributes of any kind <-> ``map<text, text>`` of JSON values, so that two
#: changes of different ones both survive.  Without any it is not stored.
json_map = Codec(
    lambda value: {name: _dump_json(value[name]) for name in value} or None,
    lambda value: {name: json.loads(value[name]) for name in value},
)


class Row:
    """Columns of a table, in the order of its statements.

    :param plain_columns: columns stored as they are.
    :param coded_columns: columns with their :class:`Codec`.
    """

    def __init__(self, *plain_columns: str, **coded_columns: Codec) -> None:
        self._codecs = dict.fromkeys(plain_columns, plain) | coded_columns
        self._coded = coded_columns

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._codecs)

    @property
    def markers(self) -> str:
        """The columns as named markers: ``:id, :name``."""
        return ', '.join(f':{name}' for name in self._codecs)

    def __str__(self) -> str:
        return ', '.join(self._codecs)

    def part(self, names: Collection[str]) -> Row:
        """Return some of the columns as a row of their own.

        :raises KeyError: for a name that is no column.
        """
        codecs = {name: self._codecs[name] for name in names}
        return Row(
            *(name for name in names if name not in self._coded),
            **{name: codecs[name] for name in names if name in self._coded},
        )

    def dump(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all columns as they are stored.

        A column that ``values`` lacks is None.

        :raises KeyError: for a name that is no column.
        """
        return dict.fromkeys(self._codecs) | self.encode(values)

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return these values, of some columns, as they are stored.

        :raises KeyError: for a name that is no column.
        """
        unknown = values.keys() - self._codecs.keys()
        if unknown:
            raise KeyError(f'no such columns: {", ".join(sorted(unknown))}')
        return {
            name: None if value is None else self._codecs[name].encode(value)
            for name, value in values.items()
        }

    def load(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row that was read."""
        values = dict(stored)
        for name, codec in self._coded.items():
            if values.get(name) is not None:
                values[name] = codec.decode(values[name])
        return values
