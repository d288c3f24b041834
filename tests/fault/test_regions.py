# SPDX-License-Identifier: Apache-2.0
"""Two regions, one of them away."""

import datetime
import time
import uuid

import keystone.conf
import pytest
from keystone.common import utils as ks_utils
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from lab.cassandra import Cluster
from oslo_utils import timeutils

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import cluster_checks
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.drivers import base, trust
from keystone_cassandra_token.drivers.token import provider as token
from keystone_cassandra_token.drivers.token import revoke
from keystone_cassandra_token.schema import ddl, migrate
from keystone_cassandra_token.schema import keyspace as keyspaces


@pytest.fixture(scope='module')
def regions():
    with Cluster.start(nodes=2, datacenters=2, own=True) as cluster:
        yield cluster


@pytest.fixture
def conf(regions, monkeypatch):
    """Keystone's configuration as in the first region; strict mode."""
    conf = keystone.conf.CONF
    keystone.conf.configure()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    home = regions.nodes[0]
    conf.set_override('cassandra_node_ips', [home.address], group='database')
    for name, value in {
        'port': regions.port,
        'keyspace': f'regions_{uuid.uuid4().hex[:8]}',
        'local_dc': home.datacenter,
        'revocation_write_consistency': 'EACH_QUORUM',
        'request_timeout': 10.0,
    }.items():
        conf.set_override(name, value, group=options.GROUP)
    # Opened by this test, with its options.
    base.shared(conf).close()
    keyspaces.create_keyspace(conf, report=lambda line: None)
    migrate.apply(conf, report=lambda line: None)
    yield conf
    base.shared(conf).close()
    for opt in options.cassandra_opts:
        conf.clear_override(opt.dest, group=options.GROUP)
    conf.clear_override('cassandra_node_ips', group='database')


def a_token():
    model = TokenModel()
    model.user_id, model.methods, model.audit_id = 'u', ['password'], 'a'
    model.expires_at = ks_utils.isotime(
        timeutils.utcnow() + datetime.timedelta(hours=1), subsecond=True
    )
    return model


def test_a_region_goes_on_alone(conf, regions):
    provider, revocations, trusts = (
        token.Provider(),
        revoke.Revoke(),
        trust.Trust(),
    )
    limited = {
        'trustor_user_id': 'u1',
        'trustee_user_id': 'u2',
        'project_id': 'p',
        'impersonation': False,
        'expires_at': timeutils.utcnow() + datetime.timedelta(hours=1),
        'remaining_uses': 2,
    }
    used = uuid.uuid4().hex
    trusts.create_trust(used, limited, [])
    before, _ = provider.generate_id_and_issued_at(a_token())
    revocations.revoke(revoke_model.RevokeEvent(user_id='everywhere'))

    away = regions.nodes[1]
    away.kill()
    try:
        # Strict: written here, and the answer says who could not be told;
        # first by a time-out, later since the node is known to be down.
        for attempt in range(2):
            user = uuid.uuid4().hex
            with pytest.raises(errors.RegionUnavailable) as said:
                revocations.revoke(revoke_model.RevokeEvent(user_id=user))
            assert said.value.code == 503
            assert away.datacenter in said.value.reason
            checked = revoke_model.blank_token_data(
                timeutils.utcnow() - datetime.timedelta(minutes=1)
            ) | {'user_id': user, 'roles': []}
            assert revocations.list_events(token=checked)
            if attempt == 0:
                _wait_until_known_down(regions, away)

        # Log-in, validation, unlimited trusts and lists go on.
        after, _ = provider.generate_id_and_issued_at(a_token())
        assert provider.validate_token(before)[0] == 'u'
        assert provider.validate_token(after)[0] == 'u'
        assert trusts.get_trust(used)['remaining_uses'] == 2
        free = uuid.uuid4().hex
        unlimited = {'remaining_uses': None, 'impersonation': True}
        trusts.create_trust(free, limited | unlimited, [])
        trusts.consume_use(free)
        trusts.delete_trust(free)

        # Only what all regions must agree on is refused, and nothing of it
        # is done.
        with pytest.raises(errors.StoreUnavailable) as refused:
            trusts.consume_use(used)
        assert refused.value.code == 503
        assert trusts.get_trust(used)['remaining_uses'] == 2
    finally:
        away.start()
    _until(lambda: trusts.consume_use(used))
    assert trusts.get_trust(used)['remaining_uses'] == 1
    _until(
        lambda: revocations.revoke(revoke_model.RevokeEvent(user_id='again'))
    )


def test_a_keyspace_that_leaves_a_region_out(conf, regions):
    """A server there says so at once, and the doctor does in the other."""
    here, there = regions.nodes
    conf.set_override(
        'keyspace', f'partial_{uuid.uuid4().hex[:8]}', group=options.GROUP
    )
    keyspaces.create_keyspace(
        conf, {here.datacenter: 1}, report=lambda line: None
    )
    migrate.apply(conf, report=lambda line: None)
    with ddl.connected(conf) as connection:
        results = cluster_checks.replication(connection, conf)
        told = [str(result) for result in results]
    assert any(f'Datacenter {there.datacenter} has nodes' in t for t in told)
    conf.set_override('local_dc', there.datacenter, group=options.GROUP)
    with pytest.raises(errors.StoreUnavailable) as refused:
        token.Provider().validate_token('kc1_' + 43 * 'A')
    assert f'no replica in datacenter {there.datacenter}' in (
        refused.value.reason
    )


def _wait_until_known_down(regions, away):
    deadline = time.monotonic() + 90
    while f'DN  {away.address}' not in regions.nodes[0].nodetool('status'):
        assert time.monotonic() < deadline, 'the node was never marked down'
        time.sleep(1)


def _until(call):
    """Call until it no longer says 503: the region is coming back."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return call()
        except errors.StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(1)
