# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark regions``: three regions, with a network between them.

Each has a Cassandra node and a Keystone, and beside them a node of MariaDB
with Galera and a Keystone with the SQL drivers and Fernet tokens.  Requests
are sent from within the regions; what this process learns in one region it
knows at once in another.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lab.benchmark.regions import clocks, cut, ended, killed, made
from lab.benchmark.regions.sites import (
    REMEMBERED,
    SETTINGS,
    System,
    of_cassandra,
    of_galera,
)
from lab.benchmark.regions.tally import Tally
from lab.benchmark.regions.times import Timed
from lab.benchmark.run import Run, machine, say
from lab.benchmark.systems import Call
from lab.regions import galera
from lab.regions.bed import Bed

_REGIONS = 3

CALLS: dict[str, Call] = {}


def run(under_way: Run) -> None:
    """Start all; measure."""
    load = os.getloadavg()[0]
    rtt: int = under_way.plan.rtt
    bed = under_way.enter(
        Bed.start(
            regions=_REGIONS,
            nodes=1,
            rtt_ms=0,
            memcached=False,
            settings=SETTINGS,
            progress=say,
        )
    )
    systems = [of_cassandra(bed, rtt)]
    nodes: list[galera.Node] = []
    if provider := galera.find_provider():
        say('starting Galera, and Keystones with the SQL drivers')
        nodes = galera.start(bed, provider)
        systems.append(of_galera(bed, rtt, nodes))
    else:
        say('Galera is not installed (galera-4): nothing to compare with')
    found = under_way.found
    found.shown = False
    tally = Tally(found)
    _measure(under_way, bed, systems, tally)
    found.tables.append(tally.table([each.name for each in systems]))
    _tell(under_way, bed, nodes, load)


def _measure(
    under_way: Run, bed: Bed, systems: list[System], tally: Tally
) -> None:
    plan = under_way.plan
    rtt: int = plan.rtt
    rounds: int = plan.rounds

    def each(
        part: str, what: str, measure: Callable[[System], object]
    ) -> None:
        for system in systems if part in plan.parts else ():
            say(f'measuring {what} ({system.name})')
            measure(system)

    bed.slow(rtt)
    left: list[ended.Left] = []
    each(
        'a',
        'what ends',
        lambda system: left.extend(ended.measure(system, tally, rounds)),
    )
    each(
        'b',
        'what is made',
        lambda system: made.measure(system, tally, 2 * rounds, rtt),
    )
    if {'c', 'd'} & set(plan.parts):
        _measure_times(under_way, bed, systems, tally)
    # As late as possible, and while all is whole.
    ended.ask_again(left, tally)
    each(
        'e',
        'a cut',
        lambda system: cut.measure(bed, system, tally, 2 * rounds),
    )
    each('f', 'a kill', lambda system: killed.measure(bed, system, tally))
    if 'g' in plan.parts:
        say('measuring with wrong clocks')
        clocks.measure(bed, systems, tally)


def _measure_times(
    under_way: Run, bed: Bed, systems: list[System], tally: Tally
) -> None:
    rtt: int = under_way.plan.rtt
    timed = [Timed(system) for system in systems]
    for ms in 0, rtt, 3 * rtt:
        bed.slow(ms)
        for one in timed:
            say(f'measuring times at {ms} ms ({one.system.name})')
            one.measure(ms, 2 * under_way.plan.rounds, changes=ms <= rtt)
    bed.slow(rtt)
    for one in timed:
        one.tell(tally)


def _tell(
    under_way: Run, bed: Bed, nodes: list[galera.Node], load: float
) -> None:
    plan, context = under_way.plan, under_way.found.context
    assert bed.cluster
    context['Machine'] = machine()
    context['Load'] = f'{load:.1f} before, {os.getloadavg()[0]:.1f} at the end'
    context['Bed'] = (
        f'{_REGIONS} regions in network namespaces, {plan.rtt} ms of round'
        ' trip between them; one database node and one Keystone of each system'
        f' in each; {plan.rounds} rounds'
    )
    version = bed.cluster.nodes[0].nodetool('version').split()[-1]
    context['Cassandra'] = f'{version}, LOCAL_QUORUM, paxos_variant v2'
    context['Galera'] = 'not installed'
    if nodes:
        version, provider = nodes[0].ask(
            'SELECT @@version, VARIABLE_VALUE FROM'
            ' information_schema.GLOBAL_STATUS'
            " WHERE VARIABLE_NAME = 'wsrep_provider_version'"
        )
        context['Galera'] = f'{provider} in MariaDB {version}'
    context['Keystone'] = (
        'gunicorn, one worker of one thread, cache in memory for'
        f' {REMEMBERED} s, password_hash_rounds 4'
    )
