# SPDX-License-Identifier: Apache-2.0
"""A client of each region, which does what a seed chooses."""

from __future__ import annotations

from collections.abc import Mapping

from tests.regions.acting_on_names import OnNames
from tests.regions.acting_on_others import OnOthers
from tests.regions.acting_on_users import OnUsers
from tests.regions.world import KINDS, Token

#: How often each kind of operation is chosen.
Weights = Mapping[str, float]
WEIGHTS: Weights = {
    'token.log_in': 6,
    'token.validate': 14,
    'token.revoke': 2,
    'password.reset': 0.7,
    'password.change': 0.7,
    'user.disable': 0.5,
    'user.enable': 1.2,
    'grant.add': 1.5,
    'grant.remove': 1,
    'name.create': 4,
    'name.rename': 2,
    'name.change': 1,
    'name.delete': 2,
    'name.find': 3,
    'name.log_in': 2,
    'trust.create': 0.7,
    'trust.use': 3,
    'trust.delete': 0.3,
    'credential.create': 1,
    'credential.log_in': 2,
    'credential.delete': 0.7,
    'secret.create': 0.8,
    'secret.change': 1.5,
    'secret.delete': 0.5,
    'secret.show': 1,
    'secret.pass': 0.5,
}


class Client(OnUsers, OnNames, OnOthers):
    """Does all kinds of operations in one region, each a method."""

    def step(self, weights: Weights) -> None:
        """Do one operation; nothing, if there is none of what was chosen."""
        names = list(weights)
        (kind,) = self.random.choices(names, list(weights.values()))
        getattr(self, kind.replace('.', '_'))()

    def read_all(self, tokens: list[Token]) -> None:
        """Read what is there, for the checks of the end."""
        world = self.world
        for user in world.password_users:
            self.show_user(user)
            for password in list(user.passwords):
                self.log_in(user, password)
        for user in world.grant_users:
            self.list_grants(user)
            self.log_in(user, user.last)
        for token in tokens:
            self.validate(token)
        for kind in KINDS:
            self.find(kind)
            for name in world.names(kind):
                self.find(kind, name)
        for entity in world.entities:
            if entity.id:
                self.show(entity)
        for trust in world.trusts:
            self.show_trust(trust)
        for owner in world.owners:
            self.list_credentials(owner)
        for made in world.credentials:
            self.log_in_by(made)
        for made in world.secrets:
            self.show_secret(made)
