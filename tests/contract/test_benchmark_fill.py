# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks fill Cassandra with is what the drivers write."""

import datetime
import types

import pytest
from lab.benchmark import events, fill, revocation

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.token import revoke
from tests import entities
from tests.contract import damage


@pytest.fixture
def systems(store, cassandra_cluster, keyspace):
    """What a client of a benchmark has open."""
    with cassandra_cluster.connect() as bare:
        place = types.SimpleNamespace(
            name=keyspace, reference=clock.utcnow().replace(microsecond=0)
        )
        yield types.SimpleNamespace(bare=bare, place=place)


@pytest.mark.parametrize('named', damage.NAMED.values(), ids=damage.NAMED)
def test_what_has_a_name(store, systems, named):
    entity = named.entity
    made = entities.values_of(entity) | damage.fresh('id')
    del made['stamps']
    fill.write_named(systems, store, named, [made])
    found = entity.find(store, made['id'])
    assert {name: found[name] for name in made} == made
    names = [
        (spec, key) for spec in named.specs for key in spec.keys(store, found)
    ]
    assert names
    for spec, key in names:
        assert spec.claims.owner(store, **key) == made['id']
    for index in entity.indexes:
        for value in index.values(found):
            assert made['id'] in index.ids(store, value)
    assert named.remove(store, made['id'])
    for spec, key in names:
        assert spec.claims.owner(store, **key) is None


def test_revocations(systems):
    reference = systems.place.reference
    revocation.write_events(systems, 20, 0, 1)
    hour = datetime.timedelta(hours=1)
    listed = {
        (each.audit_id, each.audit_chain_id, each.user_id, each.trust_id)
        for each in revoke.Revoke().list_events(last_fetch=reference - hour)
    }
    for each in events.events(20, reference, 0, 1):
        key = (each.audit_id, each.audit_chain_id, each.user_id, each.trust_id)
        assert key in listed
