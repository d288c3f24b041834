# SPDX-License-Identifier: Apache-2.0
"""Requests of two users at the same time on one worker of a real server.

Keystone 30 is not safe with several threads in a process.  Served with one,
no request sees another one's roles; with several, an operator is told.
"""

from __future__ import annotations

import threading

from lab.cassandra import Cluster
from lab.client import ADMIN_SCOPE, Client
from lab.people import People
from lab.server import Keystone

from tests.fault.keystone_servers import Servers

#: Creations by the member; with four threads about one in twelve fails.
CREATIONS = 60
WARNING = 'Keystone 30 is not safe with several threads'


def create_beside_an_administrator(
    keystone: Keystone, password: str, name: str
) -> list[int]:
    """Return the statuses of a member's creations.

    An administrator's requests go on all the time, on another connection to
    the same worker.
    """
    mine = Client(keystone.url, 1)
    theirs = Client(keystone.url, 1)
    done = threading.Event()
    listed: list[int] = []
    admin = theirs.log_in('admin', password, **ADMIN_SCOPE).auth_token
    people = People(theirs, admin, name, [f'{name}-alice'])
    token = people.log_in(f'{name}-alice', mine)
    user = people.ids[f'{name}-alice']

    def administrate() -> None:
        while not done.is_set():
            answer = theirs.request('GET', '/users?limit=5', admin)
            listed.append(answer.status_code)

    thread = threading.Thread(target=administrate)
    thread.start()
    try:
        created = [
            mine.request(
                'POST',
                f'/users/{user}/application_credentials',
                token,
                json={'application_credential': {'name': f'{number}'}},
            ).status_code
            for number in range(CREATIONS)
        ]
    finally:
        done.set()
        thread.join()
        mine.close()
        theirs.close()
    assert set(listed) == {200}
    return created


def test_one_thread_keeps_two_users_apart(
    servers: Servers, cassandra_cluster: Cluster
) -> None:
    keystone = servers.make(cassandra_cluster, workers=1, keyspace='apart')
    with keystone:
        keystone.start()
        created = create_beside_an_administrator(
            keystone, servers.password, 'apart'
        )
    assert set(created) == {201}
    assert WARNING not in keystone.log()


def test_an_operator_hears_of_several_threads(
    servers: Servers, cassandra_cluster: Cluster
) -> None:
    keystone = servers.make(
        cassandra_cluster, workers=1, threads=4, keyspace='apart'
    )
    with keystone:
        keystone.start()
        # What their creations end in is a matter of chance.
        create_beside_an_administrator(keystone, servers.password, 'told')
    assert keystone.log().count(WARNING) == 1
