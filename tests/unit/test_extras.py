# SPDX-License-Identifier: Apache-2.0
"""Columns and extra attributes: compared with what keystone's mixin does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keystone import exception
from keystone.common import sql

from keystone_cassandra_token.compat import extras
from keystone_cassandra_token.db.rows import Row, json_map, text

ROW = Row(id=text(4), name=text(4, required=True), extra=json_map)
NO_EXTRA = Row(id=text(4), name=text(4, required=True))


class Model(sql.ModelDictMixinWithExtras):
    """The SQL models' way, without a database."""

    attributes = ['id', 'name']
    extra = None

    def __init__(self, id=None, name=None, extra=None):
        self.id, self.name, self.extra = id, name, extra


@given(
    st.dictionaries(
        st.sampled_from(['id', 'name', 'extra', 'note', 'columns']),
        st.text(max_size=4),
    )
)
def test_the_rest_is_extra_as_with_sql(ref) -> None:
    made = Model.from_dict(ref)
    stored = extras.to_row(ref, ROW, 'thing')
    assert stored['extra'] == made.extra
    assert stored == {
        **{name: ref[name] for name in ('id', 'name') if name in ref},
        'extra': made.extra,
    }
    entity = {'id': None, 'name': None, **stored}
    assert extras.to_ref(entity, ROW) == made.to_dict()


def test_what_was_never_set_is_no_extra() -> None:
    entity = {'id': 'a', 'name': 'b', 'extra': None, 'incarnation': 1}
    assert extras.to_ref(entity, ROW) == {'id': 'a', 'name': 'b'}


def test_without_a_column_for_it_the_rest_goes() -> None:
    ref = {'id': 'a', 'name': 'b', 'note': 'c'}
    assert extras.to_row(ref, NO_EXTRA, 'thing') == {'id': 'a', 'name': 'b'}
    assert extras.to_ref(ref, NO_EXTRA) == {'id': 'a', 'name': 'b'}


@pytest.mark.usefixtures('keystone_options')
@pytest.mark.parametrize(
    ('ref', 'refused'),
    [
        ({'id': 'abcde'}, exception.StringLengthExceeded),
        ({'name': None}, exception.UnexpectedError),
    ],
)
def test_what_sql_refuses(ref, refused) -> None:
    with pytest.raises(refused):
        extras.to_row(ref, ROW, 'thing')
    # What is no column has no length.
    extras.to_row({'note': 'abcde', 'other': None}, ROW, 'thing')
