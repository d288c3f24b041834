# SPDX-License-Identifier: Apache-2.0
"""One run: clients in all regions while things go wrong, and what they read.

Each run has entities of its own, so that a bed serves several runs, one after
the other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.regions import namespaces
from lab.regions.bed import Bed
from lab.regions.region import KEYSTONE, Region

from tests.regions import check, clients, nemesis
from tests.regions.api import Answer
from tests.regions.check import Violation
from tests.regions.clients import Client
from tests.regions.history import OK, History, Recorder
from tests.regions.nemesis import Nemesis
from tests.regions.settling import Marks
from tests.regions.timeline import LOSES
from tests.regions.world import LIMIT, Token, World

RTT_MS = 100.0
#: Seconds that a busy machine may add to what is promised, beside what its
#: slowest answer takes.
SLACK = 5.0
BOUND = nemesis.SLOW / 1000 + 1 + SLACK
#: Seconds in which the regions must agree once they have settled, and in
#: which clients pause between two operations.
PATIENCE, PAUSE = 150.0, 0.1
#: Tokens that are read at the end, and of these those that have been ended.
_TOKENS = 40


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run does.

    :ivar seconds: for which clients work.
    :ivar patience: seconds in which the regions must agree in the end.
    """

    seed: int
    seconds: float
    operations: clients.Weights = dataclasses.field(
        default_factory=lambda: clients.WEIGHTS
    )
    faults: nemesis.Weights = dataclasses.field(
        default_factory=lambda: nemesis.WEIGHTS
    )
    patience: float = PATIENCE
    pause: float = PAUSE


@dataclasses.dataclass
class Result:
    """What a run has shown.

    :ivar rounds: how often all was read in the end.
    """

    history: History
    violations: list[Violation]
    rounds: int
    seconds: float


class Run:
    """A run on a bed that is up and healed."""

    def __init__(
        self,
        bed: Bed,
        marks: Marks,
        plan: Plan,
        path: Path | None = None,
    ) -> None:
        self._bed = bed
        self._marks = marks
        self._plan = plan
        shape = [len(each.nodes) for each in bed.regions]
        self.recorder = Recorder(
            {
                'seed': plan.seed,
                'regions': shape,
                'seconds': plan.seconds,
                'bound': BOUND,
                'limit': LIMIT,
            },
            path,
        )
        self.world = World(f'h{uuid.uuid4().hex[:6]}')
        self._ended = threading.Event()

    def run(self) -> Result:
        """Do all of it."""
        begin = time.monotonic()
        try:
            with self._clients() as several:
                self._prepare(several[0])
                self._each(several, lambda x: x.begin(self._bed.password))
                self._work(several)
                self._settle(several[0])
                violations = self._read(several)
        finally:
            self._ended.set()
            self.recorder.close()
        return Result(
            self.recorder.history,
            violations,
            self.recorder.round,
            time.monotonic() - begin,
        )

    @contextlib.contextmanager
    def _clients(self) -> Iterator[list[Client]]:
        """Make a client of each region, and its thread, which is in it."""
        self._threads: dict[int, concurrent.futures.ThreadPoolExecutor] = {}
        seed = str(self._plan.seed)
        with contextlib.ExitStack() as stack:
            several = []
            for region in self._bed.regions:
                thread = stack.enter_context(
                    concurrent.futures.ThreadPoolExecutor(
                        1, initializer=_enter, initargs=(region,)
                    )
                )
                self._threads[region.number] = thread
                client = Client(region, self.world, self.recorder, seed)
                stack.callback(client.api.close)
                several.append(client)
            stack.callback(self._ended.set)
            yield several

    def _each(
        self, several: list[Client], act: Callable[[Client], None]
    ) -> None:
        """Let all clients do something at once, each in its thread."""
        begun = [
            self._threads[each.number].submit(act, each) for each in several
        ]
        for each in begun:
            each.result()

    def _prepare(self, client: Client) -> None:
        """Make the entities; their first values are in the history, too."""

        def make() -> None:
            client.admin = client.api.log_in_as_admin(self._bed.password).token
            begin = client.now()
            self.world.make(client.api, client.admin)
            made = Answer(OK)
            for user in self.world.users:
                client.record(
                    'password.reset',
                    begin,
                    made,
                    user=user.label,
                    password=user.last,
                )
                client.record('user.enable', begin, made, user=user.label)
                client.record(
                    'grant.add', begin, made, user=user.label, role='r1'
                )

        self._each([client], lambda _: make())
        self._marks.settle(self.recorder)

    def _work(self, several: list[Client]) -> None:
        end = self.recorder.now() + self._plan.seconds

        def work(client: Client) -> None:
            # Until all is right again, which can take longer.
            while not self._ended.is_set():
                client.step(self._plan.operations)
                self._ended.wait(self._plan.pause)

        begun = [
            self._threads[each.number].submit(work, each) for each in several
        ]
        try:
            Nemesis(
                self._bed,
                self._marks,
                self.recorder,
                str(self._plan.seed),
                self._plan.faults,
                RTT_MS,
            ).run(end)
        finally:
            self._ended.set()
        for each in begun:
            each.result()

    def _settle(self, client: Client) -> None:
        """Wait until all that was sent has arrived, also what was lost.

        What a node that was killed had not yet sent needs a repair (the page
        on operations).
        """
        self._marks.settle(self.recorder)
        ended = {each.kind for each in self.recorder.history.faults}
        if ended & LOSES:
            self._bed.regions[0].nodes[0].nodetool(
                'repair', '-full', 'keystone'
            )

        def enable() -> None:
            for user in self.world.password_users:
                client.enable(user, True)

        self._each([client], lambda _: enable())
        self._marks.settle(self.recorder, repaired=True)

    def _read(self, several: list[Client]) -> list[Violation]:
        """Read all in all regions until they agree, or patience ends."""
        tokens = self._tokens()
        end = time.monotonic() + self._plan.patience
        while True:
            self.recorder.round += 1
            self._each(several, lambda each: each.read_all(tokens))
            violations = check.violations(self.recorder.history)
            # What was wrong before the end does not go away.
            if not any(each.in_the_end for each in violations):
                return violations
            if time.monotonic() > end:
                return violations

    def _tokens(self) -> list[Token]:
        """Return tokens to read at the end, of those that were ended most."""
        chosen = random.Random(self._plan.seed)
        ended = {
            each.about['token']
            for each in self.recorder.history.of('token.revoke')
        }
        first = [x for x in self.world.tokens if x.label in ended]
        rest = [x for x in self.world.tokens if x.label not in ended]
        chosen.shuffle(first)
        chosen.shuffle(rest)
        half = first[: _TOKENS // 2]
        return half + rest[: _TOKENS - len(half)]


def _enter(region: Region) -> None:
    # For good: the thread is one of the region.
    namespaces.enter(region.namespace.descriptor)


def put_right(bed: Bed) -> None:
    """End what a run that broke off has left wrong."""
    bed.heal()
    bed.slow(RTT_MS)
    bed.lossy(0)
    for region in bed.regions:
        region.resume()
        if region.clock:
            region.kill(KEYSTONE)
            region.clock = 0
        bed.restart(region.number)
