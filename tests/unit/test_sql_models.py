# SPDX-License-Identifier: Apache-2.0
"""Columns are as long, and as much needed, as in Keystone's SQL models."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import keystone
import pytest
import sqlalchemy
from keystone.common import sql

from keystone_cassandra_token.db.rows import Row, any_text, text
from keystone_cassandra_token.drivers import oauth1, trust
from keystone_cassandra_token.drivers.assignment import grants, role
from keystone_cassandra_token.drivers.catalog import project_endpoints
from keystone_cassandra_token.drivers.identity import (
    federation,
    id_mapping,
    identities,
    users,
)
from keystone_cassandra_token.drivers.resource import domain_config, projects
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.named import Named
from tests.statements import modules

KEYSTONE = Path(keystone.__file__).parent
for path in sorted(KEYSTONE.glob('*/*backends/sql*.py')):
    parts = path.relative_to(KEYSTONE.parent).with_suffix('').parts
    importlib.import_module('.'.join(parts))
TABLES = sql.ModelBase.metadata.tables


def rows() -> Iterator[tuple[str, Row]]:
    """Yield all rows of the modules, with their names or their tables."""
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, Row):
                yield f'{module.__name__}.{name}', value
            entity = value.entity if isinstance(value, Named) else value
            if isinstance(entity, Entity):
                yield entity.table, entity.row


ROWS = dict(rows())

#: Rows of SQL's tables, where those are no entities with the same name.
ELSEWHERE = {
    'assignment': grants.KEY,
    'config_register': domain_config.REGISTRATION,
    'federated_user': identities.IDENTITY,
    'federation_protocol': federation.PROTOCOL,
    'id_mapping': id_mapping.MAPPING,
    'idp_remote_ids': federation.REMOTE_ID,
    'implied_role': role.RULES.row,
    'local_user': users.NAME,
    'nonlocal_user': users.NAME,
    'project_endpoint': project_endpoints.ENDPOINTS_OF.row,
    'project_endpoint_group': project_endpoints.GROUPS_OF.row,
    'project_tag': projects.TAG,
    'request_token': oauth1.REQUEST,
    'sensitive_config': domain_config.DOMAIN_CONFIG,
    'system_assignment': grants.KEY,
    'trust': trust.TRUST,
    'whitelisted_config': domain_config.DOMAIN_CONFIG,
}

#: Tables whose columns nobody names, and why not.
IN_A_ROW = {
    'application_credential_access_rule': 'ids of rules that are there',
    'application_credential_role': 'ids of roles that are there',
    'expiring_user_group_membership': 'ids of users and groups that are there',
    'password': 'made here',
    'project_option': 'ids of options that Keystone has',
    'revocation_event': 'has no ids but those of what is there',
    'role_option': 'ids of options that Keystone has',
    'trust_role': 'ids of roles that are there',
    'user_group_membership': 'ids of users and groups that are there',
    'user_option': 'ids of options that Keystone has',
}

#: Columns of another name here, or of the row that these are in.
RENAMED = {
    ('access_rule', 'external_id'): 'id',
    ('federated_user', 'user_id'): None,
    ('idp_remote_ids', 'idp_id'): None,
    ('local_user', 'domain_id'): None,
    ('local_user', 'user_id'): None,
    ('nonlocal_user', 'domain_id'): None,
    ('nonlocal_user', 'user_id'): None,
    ('project_tag', 'project_id'): None,
}

#: Where a column is not as in SQL, and why.
DIFFERENT = {
    ('local_user', 'name'): 'federated users have none in the same row',
    ('policy_association', 'id'): 'made of what has the policy',
    ('region', 'parent_region_id'): 'one that is too long is not found',
    # Keystone's JSON schema needs them, and a ghost row is told by them.
    ('registered_limit', 'resource_name'): 'never null',
    ('registered_limit', 'service_id'): 'never null',
}


def is_text(column: sqlalchemy.Column) -> bool:
    """Return whether a column of SQL takes any text; an Enum takes few."""
    return isinstance(column.type, sqlalchemy.String) and not isinstance(
        column.type, sqlalchemy.Enum
    )


def compared() -> Iterator[tuple[str, str, sqlalchemy.Column, str, Row]]:
    """Yield the columns of SQL that rows have, by their names there."""
    for table in TABLES.values():
        row = ELSEWHERE.get(table.name) or ROWS.get(table.name)
        for column in table.columns if row else ():
            here = RENAMED.get((table.name, column.name), column.name)
            if here and (here in row.columns or is_text(column)):
                yield table.name, column.name, column, here, row


COMPARED = list(compared())


def test_each_table_is_looked_at() -> None:
    missing = TABLES.keys() - ROWS.keys() - ELSEWHERE.keys()
    assert missing == IN_A_ROW.keys()
    assert ELSEWHERE.keys() <= TABLES.keys()
    assert len({id(column) for _, _, column, _, _ in COMPARED}) > 120
    for name, row in ELSEWHERE.items():
        assert name not in ROWS or ROWS[name] is row


def test_each_renamed_column_is_one() -> None:
    for table, column in RENAMED:
        assert column in TABLES[table].columns


@pytest.mark.parametrize(
    ('table', 'name', 'column', 'here', 'row'),
    COMPARED,
    ids=[f'{table}.{name}' for table, name, *_ in COMPARED],
)
def test_a_column_is_as_in_sql(table, name, column, here, row) -> None:
    ours = row.columns[here]
    equal = True
    if is_text(column) and ours.encode in (text.encode, any_text.encode):
        equal = ours.length == column.type.length
    # A key is never null, and a None in JSON is the text "null".
    if not (
        column.primary_key
        or here == 'id'
        or isinstance(column.type, sql.JsonBlob)
    ):
        equal = equal and ours.required is not column.nullable
    assert equal is ((table, name) not in DIFFERENT)


def test_what_a_row_says_is_from_sql() -> None:
    known = {id(row.columns[here]) for *_, here, row in COMPARED}
    for name, row in ROWS.items():
        for column in row.columns.values():
            said = column.length is not None or column.required
            assert not said or id(column) in known, name
