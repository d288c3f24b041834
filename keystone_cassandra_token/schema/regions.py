# SPDX-License-Identifier: Apache-2.0
"""Which regions (datacenters) may serve.

A region whose nodes were just added, or are being rebuilt, may have tokens and
lack what revokes them.  So the keyspace records which regions are ready, and
servers of another one refuse to.  What has no record yet is from before there
were any: then all are ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone_cassandra_token.db.connection import Connection

#: Begin of the names of settings; the datacenter follows.
READY = 'region_ready '


def ready(recorded: Mapping[str, str]) -> set[str]:
    """Return the datacenters that are recorded as ready.

    :param recorded: the settings of the keyspace.
    """
    return {
        name.removeprefix(READY) for name in recorded if name.startswith(READY)
    }


def refused(recorded: Mapping[str, str], connection: Connection) -> str | None:
    """Return why servers of this region may not serve, or None."""
    known = ready(recorded)
    here = connection.local_dc
    if not known or here in known or len(connection.replication) < 2:
        return None
    return (
        f'Datacenter {here} is not ready: it may lack revocations. Run'
        ' `nodetool rebuild` and `nodetool repair -full` on its nodes, then'
        ' `keystone-cassandra region ready`.'
    )
