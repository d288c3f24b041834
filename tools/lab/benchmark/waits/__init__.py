# SPDX-License-Identifier: Apache-2.0
"""``tools/benchmark waits``: what each kind of request waits for.

Regions of several nodes, each with a Keystone.  Every request is sent while
all is well, and in each of some states of the bed; the table says of each in
words what it waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lab.benchmark.regions.sites import (
    CASSANDRA,
    REMEMBERED,
    SETTINGS,
    Answer,
    Site,
    of_cassandra,
)
from lab.benchmark.regions.tally import Tally
from lab.benchmark.report import Table
from lab.benchmark.run import Run, machine, say
from lab.benchmark.systems import Call
from lab.benchmark.waits import cells
from lab.benchmark.waits.cells import Usual
from lab.benchmark.waits.operations import OPERATIONS, Cast, Operation
from lab.cassandra_node import Node
from lab.regions.bed import Bed
from lab.regions.parts import Server, condition
from lab.regions.region import Region
from lab.server import Keystone, merge
from lab.waiting import until

#: In the order of the table.
STATES = (
    WELL,
    NODE_LOST,
    NODE_HANGS,
    CUT_OFF,
    OTHER_CUT_OFF,
    OTHER_LOST,
) = (
    'all is well',
    'a node of the region is lost',
    'a node of the region hangs',
    'the region is cut off',
    'another region is cut off',
    'another region is lost',
)
#: Of the part of a region that is the Keystone in strict mode.
STRICT = 'strict'
_STRICT_PORT = 5002
_KEYS = ('credential', 'fernet_tokens', 'fernet_receipts')
#: Requests that follow each other after a cut.
_AFTER_CUT = 2

CALLS: dict[str, Call] = {}

#: Each has its cells, one for each state that was measured.
Line = dict[str, str]


def table(lines: Mapping[Operation, Line]) -> Table:
    """Return the table; a state that was not measured has a dash."""
    return Table(
        'What waits for whom',
        ('what', 'operation', *STATES),
        [
            (it.kind, it.name, *(line.get(state, '-') for state in STATES))
            for it, line in lines.items()
        ],
    )


def run(under_way: Run) -> None:
    """Start all; measure."""
    load = os.getloadavg()[0]
    plan = under_way.plan
    bed = under_way.enter(
        Bed.start(
            regions=plan.regions,
            nodes=plan.nodes,
            rtt_ms=0,
            memcached=False,
            settings=SETTINGS,
            progress=say,
        )
    )
    found = under_way.found
    found.shown = False
    measured = _Measured(bed, plan.rtt, plan.rounds, Tally(found))
    measured.all_is_well()
    if plan.nodes > 1:
        measured.node_lost()
        measured.node_hangs()
    measured.cut_off()
    # Last: nothing comes back from it.
    measured.other_lost()
    found.tables.append(table(measured.lines))
    assert bed.cluster
    version = bed.cluster.nodes[0].nodetool('version').split()[-1]
    found.context.update(
        {
            'Machine': machine(),
            'Load': f'{load:.1f} before, {os.getloadavg()[0]:.1f} at the end',
            'Bed': f'{plan.regions} regions in network namespaces,'
            f' {plan.rtt} ms of round trip between them; {plan.nodes} database'
            f' nodes and one Keystone in each; {plan.rounds} requests of each'
            f' kind in a state, {_AFTER_CUT} after a cut',
            'Cassandra': f'{version}, LOCAL_QUORUM, paxos_variant v2',
            'Keystone': 'gunicorn, one worker of one thread, cache in memory'
            f' for {REMEMBERED} s, password_hash_rounds 4, claim_wait 1 s,'
            ' revocation_wait 1 s',
        }
    )


def _strict(bed: Bed, region: Region) -> Site:
    """Start a Keystone whose revocations wait for all regions."""
    repository = {'key_repository': bed.regions[0].keystone.keys}
    keystone = Keystone(
        region.folder / STRICT,
        merge(
            region.keystone.settings,
            {'cassandra': {'revocation_write_consistency': 'EACH_QUORUM'}},
            dict.fromkeys(_KEYS, repository),
        ),
        workers=region.keystone.workers,
        sql=False,
        host=region.address,
        port=_STRICT_PORT,
        inside=region.entered,
    )
    region.parts[STRICT] = Server(keystone)
    region.start(STRICT)
    return Site(region, keystone, bed.password)


#: What requests are about, by request.
_Subjects = dict[Operation, list[Any]]


class _Measured:
    """What was measured.

    :ivar lines: of the table.
    """

    def __init__(
        self, bed: Bed, rtt_ms: int, rounds: int, tally: Tally
    ) -> None:
        self.lines: dict[Operation, Line] = {each: {} for each in OPERATIONS}
        self._bed = bed
        self._rtt_ms = rtt_ms
        self._rounds = rounds
        self._tally = tally
        self._usual: dict[Operation, Usual] = {}
        system = of_cassandra(bed, rtt_ms)
        first, second = system.people(2)
        bed.slow(0)
        # Region 1 is asked, and 2 while 1 is cut off.
        self._here, self._there = (
            Cast(site, _strict(bed, site.region), first, second)
            for site in system.sites[:2]
        )

    def _prepare(self, cast: Cast, count: int) -> _Subjects:
        """Make what is asked for, without a delay between regions."""
        self._bed.slow(0)
        made = {
            each: [each.prepare(cast) for _ in range(count)]
            for each in OPERATIONS
        }
        self._bed.slow(self._rtt_ms)
        return made

    def _tell(
        self,
        operation: Operation,
        state: str,
        answers: Sequence[Answer],
        cell: Callable[[Usual, Sequence[Answer]], str] = cells.pooled,
    ) -> None:
        """Fill a cell."""
        usual = self._usual[operation]
        self.lines[operation][state] = cell(usual, answers)
        self._tally.keep(
            f'{operation.kind}: {operation.name}, {state}',
            CASSANDRA,
            [each.seconds for each in answers],
            self._rtt_ms,
        )

    def all_is_well(self) -> None:
        """Measure without a delay between regions, and with it."""
        say('measuring while all is well')
        for cast in self._there, self._here:
            subjects = self._prepare(cast, self._rounds + 1)
            self._bed.slow(0)
            at_once = {
                # The first one: what a process opens or compiles once.
                each: [it.good() for it in asked][1:]
                for each, asked in _asked(cast, subjects)
            }
        subjects = self._prepare(self._here, self._rounds)
        for operation, answers in _asked(self._here, subjects):
            self._usual[operation] = Usual(
                min(each.seconds for each in at_once[operation]),
                min(each.good().seconds for each in answers),
                self._rtt_ms,
            )
            self._tell(operation, WELL, answers, cells.shortest)

    def node_lost(self) -> None:
        """Kill a node of region 1, ask, and start it again."""
        say('measuring while a node is lost')
        region = self._here.site.region
        subjects = self._prepare(self._here, self._rounds)
        region.kill('2')
        _until_known(region.nodes, region.nodes[1:2])
        for operation, answers in _asked(self._here, subjects):
            self._tell(operation, NODE_LOST, answers)
        self._bed.restart(region.number, '2')

    def node_hangs(self) -> None:
        """Stop a node of region 1 for each kind of request.

        Nobody knows it yet then: what finds it out takes some seconds.
        """
        say('measuring while a node hangs')
        region = self._here.site.region
        name = str(len(region.nodes))
        subjects = self._prepare(self._here, self._rounds)
        for operation in OPERATIONS:
            region.pause(name)
            try:
                answers = _ask(self._here, operation, subjects[operation])
            finally:
                region.resume(name)
            self._tell(operation, NODE_HANGS, answers)
            until(
                lambda: condition(region.parts[name]) == 'up',
                'the node to go on',
            )

    def cut_off(self) -> None:
        """Cut region 1 off for each kind of request; ask it, and region 2."""
        say('measuring while a region is cut off')
        casts = {CUT_OFF: self._here, OTHER_CUT_OFF: self._there}
        subjects = {
            state: self._prepare(cast, _AFTER_CUT)
            for state, cast in casts.items()
        }
        for operation in OPERATIONS:
            self._bed.cut(self._here.site.region.number)
            try:
                for state, cast in casts.items():
                    answers = _ask(cast, operation, subjects[state][operation])
                    self._tell(operation, state, answers, cells.in_order)
            finally:
                self._bed.heal()
            for cast in casts.values():
                until(cast.site.agrees, f'{cast.site.region} to agree')

    def other_lost(self) -> None:
        """Kill all of the last region, and ask region 1."""
        say('measuring while another region is lost')
        *others, lost = self._bed.regions
        subjects = self._prepare(self._here, self._rounds)
        lost.kill()
        _until_known([it for each in others for it in each.nodes], lost.nodes)
        for operation, answers in _asked(self._here, subjects):
            self._tell(operation, OTHER_LOST, answers)


def _until_known(nodes: Sequence[Node], lost: Sequence[Node]) -> None:
    """Wait until all others take what is lost for dead."""
    until(
        lambda: (
            not any(
                node.sees_up(each)
                for node in nodes
                if node not in lost
                for each in lost
            )
        ),
        f'others to know that {lost} do not run',
    )


def _ask(
    cast: Cast, operation: Operation, subjects: Sequence[Any]
) -> list[Answer]:
    return [operation.ask(cast, subject) for subject in subjects]


def _asked(
    cast: Cast, subjects: _Subjects
) -> Iterator[tuple[Operation, list[Answer]]]:
    for operation, some in subjects.items():
        yield operation, _ask(cast, operation, some)
