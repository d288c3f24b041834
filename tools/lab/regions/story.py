# SPDX-License-Identifier: Apache-2.0
"""``tools/demo --regions``: a region that is cut off, and comes back."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import Any

from keystoneauth1 import exceptions

from lab.client import ADMIN_SCOPE, Client
from lab.narration import Narrator
from lab.regions.bed import Bed
from lab.regions.region import Region

#: Milliseconds of a round trip between two regions.
RTT = 100

_PICTURE = """\
region 1                     region 2
+----------------------+     +----------------------+
| Keystone, its cache  |     | Keystone, its cache  |
| Cassandra            |=====| Cassandra            |
+----------------------+  |  +----------------------+
                  a router: {rtt} ms there and back
"""


class Site:
    """One region as somebody in it sees it: all is asked there."""

    def __init__(self, region: Region, password: str) -> None:
        self._region = region
        with region.entered():
            keystone = region.keystone
            self._client = Client(keystone.url, keystone.workers)
            self.admin = self._client.log_in(
                'admin', password, **ADMIN_SCOPE
            ).auth_token

    def log_in(self, name: str, password: str) -> str | None:
        """Return a token, None if the password is refused."""
        with self._region.entered():
            try:
                return str(self._client.log_in(name, password).auth_token)
            except exceptions.Unauthorized:
                return None

    def accepts(self, token: str) -> bool:
        with self._region.entered():
            return self._client.validate(self.admin, token) == 200

    def status(self, method: str, path: str, **rest: Any) -> int:
        with self._region.entered():
            answer = self._client.request(method, path, self.admin, **rest)
        return answer.status_code

    def call(self, method: str, path: str, json: Any) -> Any:
        with self._region.entered():
            return self._client.call(method, path, self.admin, json)

    def has_user(self, name: str) -> bool:
        with self._region.entered():
            answer = self._client.request(
                'GET', f'/users?name={name}', self.admin
            )
        return bool(answer.json()['users'])

    def close(self) -> None:
        self._client.close()


def tell(regions: int, narrator: Narrator) -> None:
    """Start regions, tell the story, and stop all.

    :raises LabError: if a step is not as expected.
    """
    narrator.step('Set up', f'{regions} regions with a network between')
    with ExitStack() as stack:
        with narrator.task('regions start') as progress:
            bed = stack.enter_context(
                Bed.start(regions, rtt_ms=RTT, progress=progress)
            )
        narrator.draw(_PICTURE.format(rtt=RTT))
        sites = []
        for region in bed.regions:
            sites.append(Site(region, bed.password))
            stack.callback(sites[-1].close)
        _story(bed, sites[0], sites[-1], narrator)
        with narrator.task('stopping all'):
            stack.close()
    narrator.close(
        [('nothing', 'all is stopped and removed')],
        [
            ('tools/regions up', 'regions of your own, to cut and to slow'),
            ('the page "Regions"', 'how one is added, lost, brought back'),
        ],
    )


def _story(bed: Bed, here: Site, there: Site, narrator: Narrator) -> None:
    last = len(bed.regions)
    narrator.step('Made in one, known in all', 'log-in, token, revocation')
    former, new = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    alice = {'name': 'alice', 'domain_id': 'default', 'password': former}
    user = here.call('POST', '/users', {'user': alice})['id']
    token = here.log_in('alice', former)
    assert token
    # A machine may be too busy to answer while the other region waits.
    narrator.until(
        lambda: there.accepts(token),
        f'region {last} to know the token: what is not there yet is asked for'
        ' where it was issued',
    )
    narrator.expect(True, f'a token of region 1 is accepted in region {last}')
    narrator.until(
        lambda: there.log_in('alice', former),
        f'region {last} to know alice',
    )
    narrator.expect(True, f'alice, made in region 1, logs in in region {last}')
    here.status('DELETE', '/auth/tokens', subject=token)
    narrator.until(
        lambda: not there.accepts(token),
        f'region {last} to drop what its cache has of the revoked token',
    )
    narrator.expect(True, f'the revoked token is refused in region {last}')

    narrator.step('Cut', f'region {last} works by itself')
    bed.cut(last)
    known = there.log_in('alice', former)
    narrator.expect(
        bool(known and there.accepts(known)),
        f'region {last} is cut off; log-in and validation go on there',
    )
    bob = {'user': {'name': 'bob', 'domain_id': 'default'}}
    narrator.expect(
        there.status('POST', '/users', json=bob) == 503,
        'a new name is answered with 503 there: all must agree on it',
    )
    here.call('PATCH', f'/users/{user}', {'user': {'password': new}})
    let_in = there.log_in('alice', former)
    assert let_in
    narrator.expect(
        there.accepts(let_in),
        f"alice's password is changed in region 1; region {last} cannot know"
        ' and lets in with the former one',
    )
    knows = here.log_in('alice', new)
    assert knows

    narrator.step('Heal', 'who was let in meanwhile is stopped')
    bed.heal()
    narrator.until(
        lambda: not there.accepts(let_in),
        f'region {last} to hear of the change',
    )
    narrator.until(
        lambda: not here.accepts(let_in),
        'region 1 to hear of it',
    )
    narrator.expect(
        True, 'the token of the former password is refused everywhere'
    )
    narrator.until(
        lambda: there.accepts(knows),
        f'region {last} to know the token of the new password',
    )
    narrator.expect(
        True, 'the token of the new password is accepted everywhere'
    )
    # One that was answered with 503 may have been made all the same.
    narrator.until(
        lambda: (
            there.status('POST', '/users', json=bob) == 201
            or there.has_user('bob')
        ),
        'the regions to agree again',
    )
    narrator.expect(
        here.status('POST', '/users', json=bob) == 409,
        f'bob is made in region {last}, and the name is taken in region 1',
    )
