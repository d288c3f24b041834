# SPDX-License-Identifier: Apache-2.0
"""Three regions, with a database node and a Keystone of each system."""

from __future__ import annotations

import os
from typing import NamedTuple

from lab.benchmark.regions.sites import (
    REMEMBERED,
    SETTINGS,
    System,
    of_cassandra,
    of_galera,
)
from lab.benchmark.run import Run, machine, say
from lab.regions import galera
from lab.regions.bed import Bed
from lab.server import Settings, merge

_REGIONS = 3


class Servers(NamedTuple):
    """All that was started.

    :ivar systems: that of Cassandra, and that of Galera if it is installed.
    :ivar nodes: of Galera.
    :ivar load: of the machine before the start.
    """

    bed: Bed
    systems: list[System]
    nodes: list[galera.Node]
    load: float

    def describe(self, how: str) -> dict[str, str]:
        """Return what figures depend on, by name.

        :param how: what else there is to say of the bed.
        """
        assert self.bed.cluster
        version = self.bed.cluster.nodes[0].nodetool('version').split()[-1]
        told = {
            'Machine': machine(),
            'Load': f'{self.load:.1f} before, {os.getloadavg()[0]:.1f} at the'
            ' end',
            'Bed': f'{len(self.bed.regions)} regions in network namespaces,'
            ' one database node and one Keystone of each system in each;'
            f' {how}',
            'Cassandra': f'{version}, LOCAL_QUORUM, paxos_variant v2',
            'Galera': 'not installed',
            'Keystone': 'gunicorn, one worker of one thread, cache in memory'
            f' for {REMEMBERED} s, password_hash_rounds 4',
        }
        if self.nodes:
            version, provider = self.nodes[0].ask(
                'SELECT @@version, VARIABLE_VALUE FROM'
                ' information_schema.GLOBAL_STATUS'
                " WHERE VARIABLE_NAME = 'wsrep_provider_version'"
            )
            told['Galera'] = f'{provider} in MariaDB {version}'
        return told


def start(
    under_way: Run, rtt_ms: int, settings: Settings | None = None
) -> Servers:
    """Start all, without a delay between regions.

    :param rtt_ms: milliseconds of a round trip that the bed usually has.
    :param settings: of the Keystones on Cassandra, over those of both.
    """
    load = os.getloadavg()[0]
    bed = under_way.enter(
        Bed.start(
            regions=_REGIONS,
            nodes=1,
            rtt_ms=0,
            memcached=False,
            settings=merge(SETTINGS, settings or {}),
            progress=say,
        )
    )
    systems = [of_cassandra(bed, rtt_ms)]
    nodes: list[galera.Node] = []
    if provider := galera.find_provider():
        say('starting Galera, and Keystones with the SQL drivers')
        nodes = galera.start(bed, provider)
        systems.append(of_galera(bed, rtt_ms, nodes))
    else:
        say('Galera is not installed (galera-4): nothing to compare with')
    return Servers(bed, systems, nodes, load)
