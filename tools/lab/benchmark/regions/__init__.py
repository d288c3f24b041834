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
    CASSANDRA,
    GALERA,
    REMEMBERED,
    SETTINGS,
    System,
    of_cassandra,
    of_galera,
)
from lab.benchmark.regions.tally import Tally
from lab.benchmark.regions.times import Timed
from lab.benchmark.run import Run, say
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
    provider = galera.find_provider()
    if provider:
        say('starting Galera, and Keystones with the SQL drivers')
        systems.append(of_galera(bed, rtt, galera.start(bed, provider)))
    else:
        say('Galera is not installed (galera-4): nothing to compare with')
    found = under_way.found
    found.shown = False
    tally = Tally(found)
    _measure(under_way, bed, systems, tally)
    found.tables.append(
        tally.table([CASSANDRA, *([GALERA] if provider else [])])
    )
    _tell(under_way, bool(provider), load)


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


def _tell(under_way: Run, peer: bool, load: float) -> None:
    context = under_way.found.context
    context['Bed'] = (
        f'{_REGIONS} regions in network namespaces,'
        f' {under_way.plan.rtt} ms of round trip between them; one database'
        ' node and one Keystone of each system in each'
    )
    context['Keystone'] = (
        'gunicorn, one worker of one thread, cache in memory for'
        f' {REMEMBERED} s, password_hash_rounds 4'
    )
    context['Load'] = (
        f'{load:.1f} before, {os.getloadavg()[0]:.1f} at the end, of'
        f' {os.cpu_count()} CPUs, which the servers and clients share'
    )
    if not peer:
        context['Galera'] = 'not installed'
