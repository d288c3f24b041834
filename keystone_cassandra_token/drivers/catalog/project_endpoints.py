# SPDX-License-Identifier: Apache-2.0
"""Which endpoints and which endpoint groups a project has been given.

By project is the source of truth, since each catalog asks for a project's; by
endpoint, or group, holds ids.
"""

from __future__ import annotations

from keystone_cassandra_token.db.rows import Row, text
from keystone_cassandra_token.tables.association import Association

ENDPOINTS_OF = Association(
    'project_endpoint',
    Row(project_id=text(64), endpoint_id=text(64)),
    listed='project_endpoint_by_endpoint',
)
GROUPS_OF = Association(
    'project_endpoint_group',
    Row(project_id=text(64), endpoint_group_id=text(64)),
    listed='project_endpoint_group_by_endpoint_group',
)

ENDPOINTS_DERIVED = ENDPOINTS_OF.derived()
GROUPS_DERIVED = GROUPS_OF.derived()
