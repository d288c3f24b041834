# SPDX-License-Identifier: Apache-2.0
"""The owner of an old claim is in another region's replicas alone.

A LOCAL_QUORUM read here finds nothing; the claim must not be taken over, and
repair must leave it and the owner's index rows.
"""

import datetime
import time
import uuid

import cassandra.cluster
import cassandra.policies
import cassandra.query
import keystone.conf
import pytest
from keystone import exception
from lab.cassandra import Cluster

from keystone_cassandra_token import clock, errors, repair, uniqueness
from keystone_cassandra_token import conf as options
from keystone_cassandra_token import store as stores
from keystone_cassandra_token.drivers import trust
from keystone_cassandra_token.schema import keyspace as keyspaces
from keystone_cassandra_token.schema import migrate
from tests.fault import faults

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope='module')
def regions():
    # Without hints a node that was away never hears what it missed.
    with Cluster.start(
        nodes=2,
        datacenters=2,
        own=True,
        yaml={'hinted_handoff_enabled': False},
    ) as cluster:
        yield cluster


@pytest.fixture
def conf(regions, monkeypatch):
    """Keystone's configuration as in the first region."""
    conf = keystone.conf.CONF
    keystone.conf.configure()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    home = regions.nodes[0]
    conf.set_override('cassandra_node_ips', [home.address], group='database')
    for name, value in {
        'port': regions.port,
        'keyspace': f'owner_{uuid.uuid4().hex[:8]}',
        'local_dc': home.datacenter,
    }.items():
        conf.set_override(name, value, group=options.GROUP)
    monkeypatch.setattr(stores, '_shared', {})
    keyspaces.create_keyspace(conf, report=lambda line: None)
    migrate.apply(conf, report=lambda line: None)
    yield conf
    stores.shared(conf).close()
    for name in ('port', 'keyspace', 'local_dc'):
        conf.clear_override(name, group=options.GROUP)
    conf.clear_override('cassandra_node_ips', group='database')


def new():
    return {
        'trustor_user_id': uuid.uuid4().hex,
        'trustee_user_id': uuid.uuid4().hex,
        'project_id': uuid.uuid4().hex,
        'impersonation': False,
        'expires_at': clock.utcnow() + HOUR,
        'remaining_uses': None,
    }


def stored(trust_id, values):
    return trust._stored(trust_id, values, [])


def claim(db, trust_id, values):
    """Leave the pending claim of a creator that stalls."""
    trust.CLAIMS.claim(
        db,
        trust_id,
        exists=lambda owner: True,
        ttl=3600,
        **trust._claim_key(stored(trust_id, values)),
    )


def owner(db, values):
    return trust.CLAIMS.owner(db, **trust._claim_key(stored('any', values)))


def write_elsewhere(regions, keyspace, trust_id, values):
    """Write a trust while this region's node is away."""
    here, there = regions.nodes
    here.stop()
    try:
        with cassandra.cluster.Cluster(
            [there.address],
            port=regions.port,
            load_balancing_policy=cassandra.policies.DCAwareRoundRobinPolicy(
                there.datacenter
            ),
        ) as cluster:
            row = trust.TRUST.dump(stored(trust_id, values))
            row = {
                name: value for name, value in row.items() if value is not None
            }
            session = cluster.connect()
            statement = cassandra.query.SimpleStatement(
                f'INSERT INTO {keyspace}.trust ({", ".join(row)}) VALUES'
                f' ({", ".join(["%s"] * len(row))}) USING TTL 3600',
                consistency_level=cassandra.ConsistencyLevel.LOCAL_QUORUM,
            )
            session.execute(statement, list(row.values()), timeout=30)
    finally:
        here.start()


def test_a_claim_is_not_taken_from_an_owner_elsewhere(
    conf, regions, monkeypatch
):
    db = stores.shared(conf)
    driver = trust.Trust()
    slow, absent = uuid.uuid4().hex, uuid.uuid4().hex
    taken, untold = new(), new()
    claim(db, slow, taken)
    claim(db, absent, untold)
    db.close()
    write_elsewhere(regions, conf.cassandra.keyspace, slow, taken)

    assert db.one(trust.GET, trust.TRUST, id=slow) is None
    real = clock.utcnow
    ahead = uniqueness.STALE_AFTER * 2
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)
    with faults.counted(db) as sent, pytest.raises(exception.Conflict):
        driver.create_trust(uuid.uuid4().hex, taken, [])
    assert (trust.GET_EVERYWHERE,) in sent
    assert owner(db, taken) == slow

    # With that region away nobody knows of the other one's owner.
    regions.nodes[1].stop()
    try:
        with pytest.raises(errors.StoreUnavailable) as refused:
            driver.create_trust(uuid.uuid4().hex, untold, [])
        assert refused.value.code == 503
        assert owner(db, untold) == absent
    finally:
        regions.nodes[1].start()
    # Back, and that owner is nowhere: now its claim is free to take.
    winner = uuid.uuid4().hex
    for _ in range(60):
        try:
            driver.create_trust(winner, untold, [])
            break
        except errors.StoreUnavailable:
            time.sleep(1)  # the driver has not yet heard that it is back
    assert owner(db, untold) == winner


def run_repair(db):
    """Mend; return what was wrong by table, mended all of it."""
    said = []
    work = repair.Repair(db, apply=True, problem=said.append)
    work.run(trust.TRUST_KIND)
    assert not said
    assert not any(counts.left for counts in work.counts.values())
    return {
        table: {'stale': counts.stale, 'pending': counts.pending}
        for table, counts in work.counts.items()
        if counts.wrong
    }


def test_repair_asks_every_region(conf, regions, monkeypatch):
    monkeypatch.setattr(repair, 'YOUNG', datetime.timedelta(0))
    db = stores.shared(conf)
    elsewhere, nowhere = uuid.uuid4().hex, uuid.uuid4().hex
    values = {elsewhere: new(), nowhere: new()}
    for trust_id, each in values.items():
        claim(db, trust_id, each)
        db.batch(*trust.INDEXES.inserts(stored(trust_id, each), 3600))
    db.close()
    write_elsewhere(
        regions, conf.cassandra.keyspace, elsewhere, values[elsewhere]
    )

    regions.nodes[1].stop()
    try:
        assert db.one(trust.GET, trust.TRUST, id=elsewhere) is None
        with (
            faults.counted(db) as sent,
            pytest.raises(errors.StoreUnavailable) as refused,
        ):
            run_repair(db)
        assert regions.nodes[1].datacenter in refused.value.reason
        assert sent == [(repair.PROBE,)]
    finally:
        regions.nodes[1].start()
    for _ in range(60):
        try:
            found = run_repair(db)
            break
        except errors.StoreUnavailable:
            time.sleep(1)  # the driver has not yet heard that it is back
    row = {'stale': 1, 'pending': 0}
    assert found == {
        'trust_by_trustor': row,
        'trust_by_trustee': row,
        'trust_by_project': row,
        'trust_claim': {'stale': 0, 'pending': 1},
    }
    assert owner(db, values[elsewhere]) == elsewhere
    assert owner(db, values[nowhere]) is None
    (listed,) = trust.Trust().list_trusts_for_trustor(
        values[elsewhere]['trustor_user_id']
    )
    assert listed['id'] == elsewhere
    assert run_repair(db) == {}
