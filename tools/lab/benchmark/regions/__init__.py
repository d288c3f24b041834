# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark regions``: three regions, with a network between them.

Each has a Cassandra node and a Keystone, and beside them a node of MariaDB
with Galera and a Keystone with the SQL drivers and Fernet tokens.  Requests
are sent from within the regions; what this process learns in one region it
knows at once in another.
"""

from __future__ import annotations

from collections.abc import Callable

from lab.benchmark.regions import clocks, cut, ended, killed, made, servers
from lab.benchmark.regions.sites import System
from lab.benchmark.regions.tally import Tally
from lab.benchmark.regions.times import Timed
from lab.benchmark.run import Run, say
from lab.benchmark.systems import Call
from lab.regions.bed import Bed

CALLS: dict[str, Call] = {}


def run(under_way: Run) -> None:
    """Start all; measure."""
    plan, found = under_way.plan, under_way.found
    started = servers.start(under_way, plan.rtt)
    found.shown = False
    tally = Tally(found)
    _measure(under_way, started.bed, started.systems, tally)
    found.tables.append(tally.table([each.name for each in started.systems]))
    how = f'{plan.rtt} ms of round trip between them; {plan.rounds} rounds'
    found.context.update(started.describe(how))


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
