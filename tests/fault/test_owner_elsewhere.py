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

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import clock, errors
from keystone_cassandra_token.drivers import base, trust
from keystone_cassandra_token.drivers.identity import driver as identity
from keystone_cassandra_token.drivers.identity import users
from keystone_cassandra_token.schema import keyspace as keyspaces
from keystone_cassandra_token.schema import migrate
from keystone_cassandra_token.tables import reconcile, unique
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
    base.shared(conf).close()
    keyspaces.create_keyspace(conf, report=lambda line: None)
    migrate.apply(conf, report=lambda line: None)
    yield conf
    base.shared(conf).close()
    for name in ('port', 'keyspace', 'local_dc'):
        conf.clear_override(name, group=options.GROUP)
    conf.clear_override('cassandra_node_ips', group='database')


class Trusts:
    """Trusts, of which no two are equal."""

    table = 'trust'
    ttl = 3600
    row = trust.TRUST
    claims = trust.CLAIMS
    get = trust.GET
    get_everywhere = trust.GET_EVERYWHERE

    def new(self):
        return {
            'trustor_user_id': uuid.uuid4().hex,
            'trustee_user_id': uuid.uuid4().hex,
            'project_id': uuid.uuid4().hex,
            'impersonation': False,
            'expires_at': clock.utcnow() + HOUR,
            'remaining_uses': None,
        }

    def stored(self, trust_id, values):
        return trust.to_row(trust_id, values, [])

    def key(self, db, values):
        return trust.claim_key(self.stored('any', values))

    def create(self, trust_id, values):
        trust.Trust().create_trust(trust_id, values, [])


class Users:
    """Users, of which no two of a domain have one name."""

    table = 'user'
    ttl = None
    row = users.USERS.entity.row
    claims = users.USERS.claims
    get = users.USERS.entity.get
    get_everywhere = users.USERS.get_everywhere

    def new(self):
        return {
            'name': uuid.uuid4().hex,
            'domain_id': uuid.uuid4().hex,
            'enabled': True,
        }

    def stored(self, user_id, values):
        return users.USERS.entity.new(
            {'id': user_id, 'lock_epoch': 0, **users.stored(values)}
        )

    def key(self, db, values):
        return users.name_key(db, values['domain_id'], values['name'])

    def create(self, user_id, values):
        identity.Identity().create_user(user_id, values | {'id': user_id})


class Case:
    """What one kind's creators and owners want, by name."""

    def __init__(self, db, kind):
        self._db = db
        self.kind = kind
        self.slow, self.absent, self.winner = (
            uuid.uuid4().hex for _ in range(3)
        )
        self.taken, self.untold = kind.new(), kind.new()

    def claim(self, owner, values):
        """Leave the pending claim of a creator that stalls."""
        self.kind.claims.claim(
            self._db,
            owner,
            exists=lambda other: True,
            ttl=self.kind.ttl,
            **self.kind.key(self._db, values),
        )

    def owner(self, values):
        key = self.kind.key(self._db, values)
        return self.kind.claims.owner(self._db, **key)

    def write(self, session, keyspace):
        """Write what the slow one writes, in the region of a session."""
        row = self.kind.row.dump(self.kind.stored(self.slow, self.taken))
        row = {name: value for name, value in row.items() if value is not None}
        statement = cassandra.query.SimpleStatement(
            f'INSERT INTO {keyspace}."{self.kind.table}" ({", ".join(row)})'
            f' VALUES ({", ".join(["%s"] * len(row))})'
            + (f' USING TTL {self.kind.ttl}' if self.kind.ttl else ''),
            consistency_level=cassandra.ConsistencyLevel.LOCAL_QUORUM,
        )
        session.execute(statement, list(row.values()), timeout=30)


def write_elsewhere(regions, keyspace, cases):
    """Write what the slow ones write while this region's node is away."""
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
            session = cluster.connect()
            for case in cases:
                case.write(session, keyspace)
    finally:
        here.start()


def test_a_claim_is_not_taken_from_an_owner_elsewhere(
    conf, regions, monkeypatch
):
    db = base.shared(conf)
    cases = [Case(db, kind()) for kind in (Trusts, Users)]
    for case in cases:
        case.claim(case.slow, case.taken)
        case.claim(case.absent, case.untold)
    db.close()
    write_elsewhere(regions, conf.cassandra.keyspace, cases)

    real = clock.utcnow
    ahead = unique.STALE_AFTER * 2
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)
    for case in cases:
        kind = case.kind
        assert db.one(kind.get, kind.row, id=case.slow) is None
        with faults.counted(db) as sent, pytest.raises(exception.Conflict):
            kind.create(case.winner, case.taken)
        assert (kind.get_everywhere,) in sent
        assert case.owner(case.taken) == case.slow

    # With that region away nobody knows of the other one's owner.
    regions.nodes[1].stop()
    try:
        for case in cases:
            with pytest.raises(errors.StoreUnavailable) as refused:
                case.kind.create(case.winner, case.untold)
            assert refused.value.code == 503
            assert case.owner(case.untold) == case.absent
    finally:
        regions.nodes[1].start()
    # Back, and that owner is nowhere: now its claim is free to take.
    for case in cases:
        until_back(case.kind.create, case.winner, case.untold)
        assert case.owner(case.untold) == case.winner


def until_back(call, *arguments):
    """Call until the driver has heard that the region is back."""
    for _ in range(60):
        try:
            return call(*arguments)
        except errors.StoreUnavailable:
            time.sleep(1)
    pytest.fail('the region did not come back')


def run_repair(db):
    """Mend; return what was wrong by table, mended all of it."""
    said = []
    work = reconcile.Repair(db, apply=True, problem=said.append)
    work.run(trust.TRUST_KIND)
    assert not said
    assert not any(counts.left for counts in work.counts.values())
    return {
        table: {'stale': counts.stale, 'pending': counts.pending}
        for table, counts in work.counts.items()
        if counts.wrong
    }


def test_repair_asks_every_region(conf, regions, monkeypatch):
    monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
    db = base.shared(conf)
    # Two trusts in the making: one is there, and only elsewhere.
    case = Case(db, Trusts())
    elsewhere, nowhere = case.taken, case.untold
    for trust_id, values in (
        (case.slow, elsewhere),
        (case.absent, nowhere),
    ):
        case.claim(trust_id, values)
        stored = case.kind.stored(trust_id, values)
        db.batch(*trust.INDEXES.inserts(stored, case.kind.ttl))
    db.close()
    write_elsewhere(regions, conf.cassandra.keyspace, [case])

    regions.nodes[1].stop()
    try:
        assert db.one(trust.GET, trust.TRUST, id=case.slow) is None
        with (
            faults.counted(db) as sent,
            pytest.raises(errors.StoreUnavailable) as refused,
        ):
            run_repair(db)
        assert regions.nodes[1].datacenter in refused.value.reason
        assert sent == [(reconcile.PROBE,)]
    finally:
        regions.nodes[1].start()
    found = until_back(run_repair, db)
    row = {'stale': 1, 'pending': 0}
    assert found == {
        'trust_by_trustor': row,
        'trust_by_trustee': row,
        'trust_by_project': row,
        'trust_claim': {'stale': 0, 'pending': 1},
    }
    assert case.owner(elsewhere) == case.slow
    assert case.owner(nowhere) is None
    (listed,) = trust.Trust().list_trusts_for_trustor(
        elsewhere['trustor_user_id']
    )
    assert listed['id'] == case.slow
    assert run_repair(db) == {}
