# SPDX-License-Identifier: Apache-2.0
"""Who sends requests in a region, and notes what becomes of them."""

from __future__ import annotations

import random
from typing import Any

from lab.regions.region import Region
from lab.waiting import until

from tests.regions.api import Answer, Api, Json
from tests.regions.history import Operation, Recorder
from tests.regions.world import Entity, User, World


class Actor:
    """Sends requests in one region and records them.

    :param world: shared by all clients.
    """

    def __init__(
        self, region: Region, world: World, recorder: Recorder, seed: str
    ) -> None:
        self.number = region.number
        self.api = Api(region.keystone.url)
        self.world = world
        self.recorder = recorder
        self.random = random.Random(f'{seed} {self.number}')
        self.admin = ''
        self.tokens: dict[str, str] = {}

    def begin(self, password: str) -> None:
        """Log in all who act here; wait for what was made elsewhere."""
        self.admin = until(
            lambda: self.api.log_in_as_admin(password).token,
            f'the log-in of the administrator in region {self.number}',
        )
        world = self.world
        for user in (world.trustor, world.trustee, *world.owners):
            self.tokens[user.label] = until(
                lambda user=user: self.send_log_in(user, user.last).token,
                f'the log-in of {user.label} in region {self.number}',
            )
        for user in (*world.password_users, *world.grant_users):
            until(
                lambda user=user: self.send_log_in(user, user.last),
                f'the log-in of {user.label} in region {self.number}',
            )

    def record(
        self,
        kind: str,
        begin: float,
        answer: Answer,
        shown: Json | None = None,
        **about: Any,
    ) -> Operation:
        return self.recorder.operation(
            region=self.number,
            begin=begin,
            end=self.recorder.now(),
            kind=kind,
            about=about,
            outcome=answer.outcome,
            status=answer.status,
            shown=(shown or {}) if answer else {},
        )

    def now(self) -> float:
        return self.recorder.now()

    def send_log_in(self, user: User, password: str) -> Answer:
        secret = user.passwords[password]
        return self.api.log_in(user.id, secret, self.world.project)

    def some(self, several: list[Entity], recent: int = 6) -> Entity | None:
        known = [each for each in several if each.id][-recent:]
        return self.random.choice(known) if known else None
