# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a run, as a seed chooses, and is put right again.

A fault lasts until the clients have ended so many operations, not for a time.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping

from lab.regions.bed import Bed
from lab.regions.region import KEYSTONE, Region

from tests.regions.history import Fault, Recorder
from tests.regions.settling import Marks
from tests.regions.timeline import LOSES

#: Seconds by which a clock is wrong.
CLOCK = 5
LOSS, SLOW = 5, 300  # percent; milliseconds
#: Operations for which a fault lasts.
_SHORT, _LONG = (10, 50), (100, 250)

Act = Callable[[], object]


@dataclasses.dataclass
class Wrong:
    """A fault: how it is begun and ended."""

    kind: str
    begin: Act
    end: Act
    region: int | None = None
    part: str | None = None


#: How often each kind of fault is chosen.
Weights = Mapping[str, float]
WEIGHTS: Weights = {
    'cut': 6,
    'kill node': 1,
    'pause node': 3,
    'pause replica': 1,
    'kill keystone': 1,
    'pause keystone': 1.5,
    'loss': 1.5,
    'slow': 1,
    'clock': 2,
    'restart keystones': 0.7,
    'restart nodes': 0.5,
}


class Nemesis:
    """Does harm to a bed, and undoes it.

    :param rtt_ms: of the bed, when nothing is wrong.
    """

    def __init__(
        self,
        bed: Bed,
        marks: Marks,
        recorder: Recorder,
        seed: str,
        weights: Weights,
        rtt_ms: float,
    ) -> None:
        self._bed = bed
        self._marks = marks
        self._recorder = recorder
        self._random = random.Random(f'{seed} nemesis')
        self._weights = weights
        self._rtt_ms = rtt_ms

    def run(self, end: float) -> None:
        """Let things go wrong until a time, and be right in the end.

        :param end: by the clock of the recorder.
        """
        chosen, recorder = self._random, self._recorder
        recorder.wait_for_operations(20, end)
        while recorder.now() < end:
            several = [self._chosen()]
            if chosen.random() < 0.25:
                several.append(self._chosen())
            if len({each.kind for each in several}) < len(several):
                several.pop()
            begun = []
            try:
                for each in several:
                    begin = recorder.now()
                    begun.append((each, begin, begin))
                    each.begin()
                    begun[-1] = each, begin, recorder.now()
                if [each.kind for each in several] == ['clock']:
                    self._marks.settle(recorder)
                # Some end before others notice, others last until nodes keep
                # hints.
                low, high = chosen.choice([_SHORT, _LONG])
                recorder.wait_for_operations(chosen.randint(low, high), end)
                self._marks.leave()
            finally:
                for each, begin, since in begun:
                    until = recorder.now()
                    each.end()
                    now = recorder.now()
                    recorder.add(
                        Fault(
                            each.kind,
                            each.region,
                            each.part,
                            begin,
                            since,
                            until,
                            now,
                        )
                    )
            if LOSES & {each.kind for each in several}:
                self._marks.forget()
            if chosen.random() < 0.7:
                self._marks.settle(recorder)
                recorder.wait_for_operations(chosen.randint(20, 50), end)

    def _chosen(self) -> Wrong:
        names = list(self._weights)
        (kind,) = self._random.choices(names, list(self._weights.values()))
        region = self._random.choice(self._bed.regions)
        make = getattr(self, f'_{kind.replace(" ", "_")}')
        wrong: Wrong = make(region)
        return wrong

    def _part(self, region: Region) -> str:
        return str(self._random.randint(1, len(region.nodes)))

    def _cut(self, region: Region) -> Wrong:
        bed, number = self._bed, region.number
        return Wrong(
            'cut', lambda: bed.cut(number), lambda: bed.heal(number), number
        )

    def _killed(self, region: Region, kind: str, part: str) -> Wrong:
        return Wrong(
            kind,
            lambda: region.kill(part),
            lambda: self._bed.restart(region.number, part),
            region.number,
            part,
        )

    def _paused(self, region: Region, kind: str, part: str) -> Wrong:
        return Wrong(
            kind,
            lambda: region.pause(part),
            lambda: region.resume(part),
            region.number,
            part,
        )

    def _kill_node(self, region: Region) -> Wrong:
        return self._killed(region, 'kill node', self._part(region))

    def _pause_node(self, region: Region) -> Wrong:
        return self._paused(region, 'pause node', self._part(region))

    def _pause_replica(self, region: Region) -> Wrong:
        """One of several: its region goes on, and it does things late."""
        several = [x for x in self._bed.regions if len(x.nodes) > 1]
        return self._pause_node(several[0] if several else region)

    def _kill_keystone(self, region: Region) -> Wrong:
        return self._killed(region, 'kill keystone', KEYSTONE)

    def _pause_keystone(self, region: Region) -> Wrong:
        return self._paused(region, 'pause keystone', KEYSTONE)

    def _loss(self, region: Region) -> Wrong:
        bed = self._bed
        return Wrong('loss', lambda: bed.lossy(LOSS), lambda: bed.lossy(0))

    def _slow(self, region: Region) -> Wrong:
        bed, number = self._bed, region.number
        return Wrong(
            'slow',
            lambda: bed.slow(SLOW, number),
            lambda: bed.slow(self._rtt_ms, number),
            number,
        )

    def _clock(self, region: Region) -> Wrong:
        """The clock of a server goes ahead, or behind: that begins anew."""
        seconds = self._random.choice([-CLOCK, CLOCK])

        def begin() -> None:
            if seconds < 0:
                region.kill(KEYSTONE)
            region.clock = seconds
            self._bed.restart(region.number, KEYSTONE)

        def end() -> None:
            if seconds > 0:
                region.kill(KEYSTONE)
            region.clock = 0
            self._bed.restart(region.number, KEYSTONE)

        return Wrong('clock', begin, end, region.number, f'{seconds:+} s')

    def _restart_keystones(self, region: Region) -> Wrong:
        def begin() -> None:
            for each in self._bed.regions:
                each.keystone.stop()
                self._bed.restart(each.number, KEYSTONE)

        return Wrong('restart keystones', begin, lambda: None)

    def _restart_nodes(self, region: Region) -> Wrong:
        def begin() -> None:
            for each in self._bed.regions:
                for number, node in enumerate(each.nodes, 1):
                    node.stop()
                    self._bed.restart(each.number, str(number))

        return Wrong('restart nodes', begin, lambda: None)
