# SPDX-License-Identifier: Apache-2.0
"""Two datacenters: one goes on alone, and an owner is in the other one alone.

A LOCAL_QUORUM read of the first datacenter finds nothing of such an owner; its
claim must not be taken over, and reconcile must leave it and its index rows.

Nodes take long to start: the first datacenter is away once and then the
second, for all tests.  What they find is made before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cassandra.cluster
import cassandra.policies
import keystone.conf
import pytest
from keystone import exception
from keystone.common import utils as ks_utils
from keystone.common.driver_hints import Hints
from keystone.models import revoke_model
from keystone.models.token_model import TokenModel
from lab.cassandra import Cluster
from lab.schema import quick_schema
from lab.waiting import until
from oslo_utils import timeutils

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import cluster_checks
from keystone_cassandra_token.db import (
    agreement,
    clock,
    deadline,
    elsewhere,
    errors,
    outage,
)
from keystone_cassandra_token.db.consistency import Operation
from keystone_cassandra_token.db.store import Store
from keystone_cassandra_token.drivers import base, trust
from keystone_cassandra_token.drivers.assignment import role
from keystone_cassandra_token.drivers.catalog import driver as catalog
from keystone_cassandra_token.drivers.catalog import endpoints
from keystone_cassandra_token.drivers.catalog.project_endpoints import (
    GROUPS_OF,
)
from keystone_cassandra_token.drivers.identity import federation, users
from keystone_cassandra_token.drivers.token import provider as token
from keystone_cassandra_token.drivers.token import revoke
from keystone_cassandra_token.schema import ddl
from keystone_cassandra_token.schema import keyspace as keyspaces
from keystone_cassandra_token.tables import reconcile, unique
from keystone_cassandra_token.tables.entity import Entity
from keystone_cassandra_token.tables.named import Named
from tests import entities
from tests.conftest import RESTARTED
from tests.contract import damage
from tests.fault import faults, owners

#: Seconds after which something has gone wrong.
PATIENCE = 600

#: What all datacenters must agree on.
WIDE = (Operation.LWT_GLOBAL, Operation.LWT_GLOBAL_READ)


@pytest.fixture(scope='module')
def datacenters() -> Iterator[Cluster]:
    with Cluster.start(
        nodes=2,
        datacenters=2,
        own=True,
        commitlog_sync='batch',
        yaml={
            # There is no data that a node which joins would have to fetch.
            'auto_bootstrap': False,
            # Without hints a node that was away never hears what it missed.
            'hinted_handoff_enabled': False,
        },
        java_options=RESTARTED,
    ) as cluster:
        yield cluster


@contextlib.contextmanager
def server(datacenters: Cluster, keyspace: str) -> Iterator[Store]:
    """Configure Keystone as in the first datacenter, with a store of its
    own."""
    conf = keystone.conf.CONF
    keystone.conf.configure()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    home = datacenters.nodes[0]
    conf.set_override('cassandra_node_ips', [home.address], group='database')
    for name, value in {
        'port': datacenters.port,
        'keyspace': keyspace,
        'local_dc': home.datacenter,
        # Strict mode.
        'revocation_write_consistency': 'EACH_QUORUM',
        'request_timeout': 10.0,
    }.items():
        conf.set_override(name, value, group=options.GROUP)
    # Opened anew, with these options.
    base.shared(conf).close()
    try:
        yield base.shared(conf)
    finally:
        base.shared(conf).close()
        for opt in options.cassandra_opts:
            conf.clear_override(opt.dest, group=options.GROUP)
        conf.clear_override('cassandra_node_ips', group='database')


@dataclasses.dataclass
class Before:
    """What was there before a datacenter was lost.

    :ivar keyspace: with tables in both datacenters.
    :ivar repaired: another one.
    :ivar limited: the id of a trust with two uses left.
    :ivar cases: owners in the first keyspace, of which the second datacenter
        alone has rows.
    :ivar trusts: those in the other keyspace, with their index rows.
    :ivar named: entities with names on which all datacenters agree, how each
        is made, and of what.
    """

    keyspace: str
    repaired: str
    limited: str
    token: str
    cases: list[owners.Case]
    trusts: owners.Case
    named: list[tuple[Named, damage.Case, dict[str, Any]]]


@pytest.fixture(scope='module')
def before(datacenters: Cluster) -> Before:
    """Make all that tests find; the rows of owners are written elsewhere."""
    found = Before(
        *(f'datacenters_{uuid.uuid4().hex[:8]}' for _ in range(2)),
        limited=uuid.uuid4().hex,
        token='',
        cases=[owners.Case(owners.Trusts()), owners.Case(owners.Users())],
        trusts=owners.Case(owners.Trusts()),
        named=[],
    )
    with server(datacenters, found.keyspace) as db:
        quick_schema(keystone.conf.CONF)
        trust.Trust().create_trust(found.limited, a_trust(), [])
        found.token, _ = token.Provider().generate_id_and_issued_at(a_token())
        revoke.Revoke().revoke(revoke_model.RevokeEvent(user_id='everywhere'))
        for case in found.cases:
            case.claim(db)
        for maker, named in damage.NAMED.items():
            made = damage.case_of(maker)
            given = damage.fresh(*made.given)
            made.make(**given)
            found.named.append((named, made, given))
    with server(datacenters, found.repaired) as db:
        quick_schema(keystone.conf.CONF)
        # Two trusts in the making: one is there, and only elsewhere.
        case = found.trusts
        case.claim(db)
        for trust_id, values in (
            (case.slow, case.taken),
            (case.absent, case.untold),
        ):
            stored = case.kind.stored(trust_id, values)
            db.run_each(*trust.INDEXES.inserts(stored, case.kind.ttl))
    for node in datacenters.nodes:
        node.nodetool('flush')  # the schema, too

    here, there = datacenters.nodes
    here.stop()
    try:
        with cassandra.cluster.Cluster(
            [there.address],
            port=datacenters.port,
            load_balancing_policy=cassandra.policies.DCAwareRoundRobinPolicy(
                there.datacenter
            ),
        ) as cluster:
            session = cluster.connect()
            for case in found.cases:
                case.write(session, found.keyspace)
            found.trusts.write(session, found.repaired)
    finally:
        here.start()
    wait_until_known(datacenters, up=True)
    return found


@pytest.fixture
def db(datacenters: Cluster, before: Before) -> Iterator[Store]:
    with server(datacenters, before.keyspace) as db:
        yield db


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the clock on, until no claim is young."""
    go_on(monkeypatch)


def go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = clock.utcnow
    ahead = unique.STALE_AFTER * 2
    monkeypatch.setattr(clock, 'utcnow', lambda: real() + ahead)


@pytest.fixture
def repairing(
    datacenters: Cluster, before: Before, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """The store of the keyspace for repair, to which nothing is young."""
    monkeypatch.setattr(reconcile, 'YOUNG', datetime.timedelta(0))
    with server(datacenters, before.repaired) as db:
        yield db


def a_token() -> TokenModel:
    model = TokenModel()
    model.user_id, model.methods, model.audit_id = 'u', ['password'], 'a'
    model.expires_at = ks_utils.isotime(
        timeutils.utcnow() + datetime.timedelta(hours=1), subsecond=True
    )
    return model


def a_trust() -> dict[str, Any]:
    return {
        'trustor_user_id': 'u1',
        'trustee_user_id': 'u2',
        'project_id': 'p',
        'impersonation': False,
        'expires_at': timeutils.utcnow() + datetime.timedelta(hours=1),
        'remaining_uses': 2,
    }


def run_reconcile(db: Store) -> dict[str, dict[str, int]]:
    """Mend; return what was wrong by table, mended all of it."""
    said: list[Any] = []
    work = reconcile.Reconciler(db, apply=True, problem=said.append)
    work.run(trust.TRUST_DERIVED)
    assert not said
    assert not any(counts.left for counts in work.counts.values())
    return {
        table: {'stale': counts.stale}
        for table, counts in work.counts.items()
        if counts.wrong
    }


def test_a_claim_is_not_taken_from_an_owner_elsewhere(
    db: Store, before: Before, later: None
) -> None:
    for case in before.cases:
        kind = case.kind
        assert db.one(kind.get, kind.row, id=case.slow) is None
        with faults.counted(db) as sent, pytest.raises(exception.Conflict):
            kind.create(case.winner, case.taken)
        assert (kind.get_everywhere,) in sent
        assert case.owner(db, case.taken) == case.slow


def test_a_keyspace_that_leaves_a_datacenter_out(datacenters: Cluster) -> None:
    """A server there says so at once, and the doctor does in the other."""
    here, there = datacenters.nodes
    with server(datacenters, f'partial_{uuid.uuid4().hex[:8]}'):
        conf = keystone.conf.CONF
        keyspaces.create_keyspace(
            conf, {here.datacenter: 1}, report=lambda line: None
        )
        with ddl.connected(conf) as connection:
            results = cluster_checks.replication(connection, conf)
            told = [str(result) for result in results]
        assert any(
            f'Datacenter {there.datacenter} has nodes' in t for t in told
        )
        conf.set_override('local_dc', there.datacenter, group=options.GROUP)
        with pytest.raises(errors.StoreUnavailable) as refused:
            token.Provider().validate_token('kc1_' + 43 * 'A')
        assert f'no replica in datacenter {there.datacenter}' in (
            refused.value.reason
        )


def test_who_takes_a_name_over_must_reach_the_nodes_of_all(
    db: Store,
    datacenters: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its former owner may be at work in another datacenter."""
    there = datacenters.nodes[1]
    case = owners.Case(owners.Users())
    case.claim(db)
    go_on(monkeypatch)
    there.nodetool('disablebinary')
    try:
        with pytest.raises(errors.StoreUnavailable):
            case.kind.create(case.winner, case.untold)
        assert f'The nodes of datacenter {there.datacenter} must be' in (
            caplog.text
        )
        assert case.owner(db, case.untold) == case.absent
        # That is no outage of the servers here.
        assert not outage.BOARD.is_out()
    finally:
        there.nodetool('enablebinary')
    until_back(case.kind.create, case.winner, case.untold)
    assert case.owner(db, case.untold) == case.winner


@dataclasses.dataclass
class Regions:
    """A store in each of two datacenters, which do something at once."""

    here: Store
    there: Store

    @property
    def both(self) -> tuple[Store, Store]:
        return self.here, self.there

    def drivers(self, driver: type[Any]) -> list[Any]:
        """Return a driver of a server in each."""
        made = [driver() for _ in self.both]
        for each, store in zip(made, self.both, strict=True):
            each.db = store
        return made

    def create(
        self, entity: Entity, new: Sequence[dict[str, Any]]
    ) -> list[bool]:
        """Create one in each at once; return whether each was told so."""
        start = threading.Barrier(2)

        def create(store: Store, each: dict[str, Any]) -> bool:
            start.wait(faults.PATIENCE)
            return bool(entity.create(store, each))

        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            return list(threads.map(create, self.both, new))

    def agreed(self, entity: Entity, entity_id: str) -> dict[str, Any] | None:
        """Return what both find once they find the same.

        It may be older at first; that is for the caller to know.
        """

        def same() -> list[Any]:
            one, other = (entity.find(each, entity_id) for each in self.both)
            return [one] if one == other else []

        return until(same, 'the same in both datacenters', PATIENCE)[0]


@pytest.fixture
def regions(db: Store) -> Iterator[Regions]:
    with elsewhere.each_datacenter(db) as stores:
        yield Regions(*stores)


IDPS = federation.IDPS.entity
#: Creations of one id by two datacenters.
ROUNDS = 8


class TestTwoRegions:
    """What two datacenters do to one thing at once."""

    @pytest.mark.parametrize(
        'entity',
        [each for each in entities.ALL.values() if each.everywhere],
        ids=lambda entity: entity.table,
    )
    def test_of_two_creations_one_is_made(
        self, regions: Regions, entity: Entity
    ) -> None:
        values = entities.values_of(entity)
        for _ in range(ROUNDS):
            values['id'] = uuid.uuid4().hex
            new = [entity.new(values) for _ in regions.both]
            made = regions.create(entity, new)
            assert sorted(made) == [False, True]
            found = regions.agreed(entity, values['id'])
            assert found == new[made.index(True)]
            assert entity.discard(regions.here, found)

    def test_who_has_not_a_name_is_fenced_in_each(
        self, regions: Regions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What another region's server has sent may be applied there yet."""
        case = owners.Case(owners.Users())
        case.claim(regions.here)
        go_on(monkeypatch)
        fence = users.USERS.entity.renumber
        with faults.counted(regions.here) as sent:
            case.kind.create(case.winner, case.untold)
        assert sent.count((fence,)) == len(regions.both)
        assert case.owner(regions.here, case.untold) == case.winner

    def test_a_protocol_that_is_removed_stays_away(
        self, regions: Regions
    ) -> None:
        """Another one is added elsewhere; both are in one cell."""
        here, there = regions.drivers(federation.Federation)
        idp_id = uuid.uuid4().hex
        here.create_idp(idp_id, {'domain_id': 'd', 'enabled': True})
        here.create_protocol(idp_id, 'former', {'mapping_id': 'm'})
        regions.agreed(IDPS, idp_id)
        with faults.stalled(
            regions.here,
            IDPS.update,
            lambda: here.delete_protocol(idp_id, 'former'),
        ) as removal:
            there.create_protocol(idp_id, 'added', {'mapping_id': 'm'})
            removal.finish()
            assert removal.said is None
        until(
            lambda: (
                [
                    [each['id'] for each in driver.list_protocols(idp_id)]
                    for driver in (here, there)
                ]
                == [['added'], ['added']]
            ),
            'the protocol that was added, alone',
            PATIENCE,
        )

    def test_what_is_deleted_elsewhere_cannot_be_changed(
        self, regions: Regions
    ) -> None:
        here, there = regions.drivers(federation.Federation)
        idp_id = uuid.uuid4().hex
        here.create_idp(idp_id, {'domain_id': 'd', 'enabled': True})
        regions.agreed(IDPS, idp_id)
        with faults.stalled(
            regions.here,
            IDPS.update,
            lambda: here.update_idp(idp_id, {'enabled': False}),
        ) as change:
            there.delete_idp(idp_id)
            change.finish()
        assert isinstance(change.said, exception.IdentityProviderNotFound)

    def test_no_rule_is_left_of_a_role_that_is_deleted_elsewhere(
        self, regions: Regions
    ) -> None:
        here, there = regions.drivers(role.Role)
        prior, implied = uuid.uuid4().hex, uuid.uuid4().hex
        for each in (prior, implied):
            here.create_role(each, {'id': each, 'name': each})
            regions.agreed(role.ROLES.entity, each)
        with faults.stalled(
            regions.there,
            role.RULES.insert,
            lambda: there.create_implied_role(prior, implied),
        ) as creation:
            here.delete_role(implied)
        # Whether that one has heard of it or not.
        assert isinstance(creation.said, (exception.UnexpectedError, dict))
        until(
            lambda: (
                not any(
                    driver.list_implied_roles(prior)
                    for driver in (here, there)
                )
            ),
            'no rule of a role that is gone',
            PATIENCE,
        )

    def test_no_project_has_a_group_that_is_deleted_elsewhere(
        self, regions: Regions
    ) -> None:
        here, there = regions.drivers(catalog.Catalog)
        group_id, project_id = uuid.uuid4().hex, uuid.uuid4().hex
        here.create_endpoint_group(
            group_id, {'id': group_id, 'name': 'g', 'filters': {}}
        )
        regions.agreed(endpoints.GROUPS, group_id)
        with faults.stalled(
            regions.there,
            GROUPS_OF.insert,
            lambda: there.add_endpoint_group_to_project(group_id, project_id),
        ) as gift:
            here.delete_endpoint_group(group_id)
        assert isinstance(
            gift.said, (exception.EndpointGroupNotFound, type(None))
        )
        until(
            lambda: (
                not any(
                    driver.list_endpoint_groups_for_project(project_id)
                    for driver in (here, there)
                )
            ),
            'no group that is gone',
            PATIENCE,
        )

    def test_no_endpoint_is_left_of_a_service_that_is_deleted_elsewhere(
        self, regions: Regions
    ) -> None:
        here, there = regions.drivers(catalog.Catalog)
        for _ in range(ROUNDS):
            service_id, endpoint_id = uuid.uuid4().hex, uuid.uuid4().hex
            here.create_service(
                service_id,
                {'id': service_id, 'type': 't', 'enabled': True},
            )
            regions.agreed(endpoints.SERVICES, service_id)
            with faults.stalled(
                regions.there,
                endpoints.SERVICES.settle,
                functools.partial(
                    there.create_endpoint,
                    endpoint_id,
                    {
                        'id': endpoint_id,
                        'service_id': service_id,
                        'interface': 'public',
                        'url': 'http://one',
                    },
                ),
            ) as creation:
                # It sees the endpoint, however late that is replicated.
                here.delete_service(service_id)
            assert isinstance(creation.said, exception.ValidationError)
            assert regions.agreed(endpoints.ENDPOINTS, endpoint_id) is None
        assert not any(
            each['service_id'] == service_id
            for driver in (here, there)
            for each in driver.list_endpoints(Hints())
        )


@pytest.fixture(scope='module')
def alone(datacenters: Cluster, before: Before) -> Iterator[None]:
    """Lose the second datacenter, whose node crashes."""
    datacenters.nodes[1].kill()
    yield
    datacenters.nodes[1].start()


class TestAlone:
    @pytest.fixture(autouse=True)
    def _alone(self, alone: None) -> None:
        pass

    def test_a_datacenter_goes_on(
        self, db: Store, before: Before, datacenters: Cluster
    ) -> None:
        provider, revocations, trusts = (
            token.Provider(),
            revoke.Revoke(),
            trust.Trust(),
        )
        away = datacenters.nodes[1]
        # Strict: written here, and the answer says who could not be told;
        # first by a time-out, later since the node is known to be down.
        for attempt in range(2):
            user = uuid.uuid4().hex
            with pytest.raises(errors.DatacenterUnavailable) as said:
                revocations.revoke(revoke_model.RevokeEvent(user_id=user))
            assert said.value.code == 503
            assert away.datacenter in said.value.reason
            checked = revoke_model.blank_token_data(
                timeutils.utcnow() - datetime.timedelta(minutes=1)
            ) | {'user_id': user, 'roles': []}
            assert revocations.list_events(token=checked)
            if attempt == 0:
                wait_until_known(datacenters, up=False)
        conf = keystone.conf.CONF
        conf.set_override(
            'fail_unconfirmed_revocations', False, group=options.GROUP
        )
        revocations.revoke(revoke_model.RevokeEvent(user_id=user))

        # Log-in, validation, unlimited trusts and lists go on.
        after, _ = provider.generate_id_and_issued_at(a_token())
        assert provider.validate_token(before.token)[0] == 'u'
        assert provider.validate_token(after)[0] == 'u'
        assert trusts.get_trust(before.limited)['remaining_uses'] == 2
        free = uuid.uuid4().hex
        unlimited = {'remaining_uses': None, 'impersonation': True}
        trusts.create_trust(free, a_trust() | unlimited, [])
        trusts.consume_use(free)
        trusts.delete_trust(free)

        # Only what all datacenters must agree on is refused, and nothing of it
        # is done.
        with pytest.raises(errors.StoreUnavailable) as refused:
            trusts.consume_use(before.limited)
        assert refused.value.code == 503
        assert trusts.get_trust(before.limited)['remaining_uses'] == 2

    def test_a_claim_fails_at_once_for_a_moment(
        self, db: Store, before: Before, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a client's request waits: it is not even sent."""
        trusts = trust.Trust()
        sessions = trusts.db.sessions

        def wide_sent() -> int:
            with (
                serving(),
                faults.counted(trusts.db) as sent,
                pytest.raises(errors.StoreUnavailable),
            ):
                trusts.consume_use(before.limited)
            return sum(each[0].operation in WIDE for each in sent)

        def fail(holds: float) -> None:
            monkeypatch.setattr(agreement, 'HOLDS', holds)
            sessions.cut_off.began(Operation.LWT_GLOBAL, '')

        serving: Callable[[], contextlib.AbstractContextManager[None]]
        serving = functools.partial(deadline.of_request, PATIENCE)
        # What failed in the test before holds no longer.
        fail(holds=0.0)
        monkeypatch.setattr(agreement, 'HOLDS', PATIENCE)
        assert wide_sent() > 0
        assert wide_sent() == 0
        # The moment is over.
        fail(holds=0.0)
        assert wide_sent() > 0
        # A command has all the time it needs.
        fail(holds=PATIENCE)
        serving = contextlib.nullcontext
        assert wide_sent() > 0
        fail(holds=0.0)

    def test_what_has_a_name_is_deleted_and_its_name_is_kept(
        self, db: Store, before: Before, later: None
    ) -> None:
        for named, case, given in before.named:
            if named.entity.everywhere:
                continue
            assert named.remove(db, given['id'])
            assert named.entity.find(db, given['id']) is None
            with pytest.raises(errors.StoreUnavailable):
                case.make(**given | damage.fresh('id'))

    def test_what_all_agree_on_is_left_as_it_is(
        self, db: Store, before: Before
    ) -> None:
        """Roles and identity providers decide who may do what everywhere."""
        tried = []
        for named, _, given in before.named:
            if named.entity.everywhere:
                was = named.entity.find(db, given['id'])
                with pytest.raises(errors.StoreUnavailable):
                    named.remove(db, given['id'])
                assert named.entity.find(db, given['id']) == was is not None
                tried.append(named)
        assert tried
        # Nor is anything removed of who came by them.
        (idp_id,) = (
            given['id']
            for named, _, given in before.named
            if named is federation.IDPS
        )
        driver = federation.Federation()
        for delete in (
            functools.partial(driver.delete_idp, idp_id),
            functools.partial(driver.delete_protocol, idp_id, 'saml2'),
        ):
            with (
                faults.counted(db) as sent,
                pytest.raises(errors.StoreUnavailable),
            ):
                delete()
            assert all(each.verb == 'SELECT' for each, *_ in sent)

    def test_nobody_knows_of_the_other_ones_owner(
        self, db: Store, before: Before, later: None
    ) -> None:
        for case in before.cases:
            with pytest.raises(errors.StoreUnavailable) as refused:
                case.kind.create(case.winner, case.untold)
            assert refused.value.code == 503
            assert case.owner(db, case.untold) == case.absent

    def test_reconcile_asks_every_datacenter(
        self, repairing: Store, before: Before, datacenters: Cluster
    ) -> None:
        slow = before.trusts.slow
        assert repairing.one(trust.GET, trust.TRUST, id=slow) is None
        with (
            faults.counted(repairing) as sent,
            pytest.raises(errors.StoreUnavailable) as refused,
        ):
            run_reconcile(repairing)
        assert datacenters.nodes[1].datacenter in refused.value.reason
        assert sent == [(reconcile.PROBE,)]


@pytest.fixture(scope='module')
def back(alone: None, datacenters: Cluster) -> None:
    """The second datacenter is back."""
    datacenters.nodes[1].start()


class TestBack:
    @pytest.fixture(autouse=True)
    def _back(self, back: None) -> None:
        pass

    def test_all_agree_again(self, db: Store, before: Before) -> None:
        trusts, revocations = trust.Trust(), revoke.Revoke()
        until_back(trusts.consume_use, before.limited)
        assert trusts.get_trust(before.limited)['remaining_uses'] == 1
        event = revoke_model.RevokeEvent(user_id='again')
        until_back(revocations.revoke, event)

    def test_the_claim_of_an_owner_that_is_nowhere_is_free(
        self, db: Store, before: Before, later: None
    ) -> None:
        for case in before.cases:
            until_back(case.kind.create, case.winner, case.untold)
            assert case.owner(db, case.untold) == case.winner

    def test_the_name_of_what_was_deleted_meanwhile_is_free(
        self, db: Store, before: Before, later: None
    ) -> None:
        for named, case, given in before.named:
            if named.entity.everywhere:  # it could not be deleted
                until_back(named.remove, db, given['id'])
            again = given | damage.fresh('id')
            until_back(functools.partial(case.make, **again))

    def test_repair_mends_what_is_nowhere(
        self, repairing: Store, before: Before
    ) -> None:
        case = before.trusts
        found = until_back(run_reconcile, repairing)
        row = {'stale': 1}
        assert found == {
            'trust_by_trustor': row,
            'trust_by_trustee': row,
            'trust_by_project': row,
            'trust_claim': row,
        }
        assert case.owner(repairing, case.taken) == case.slow
        assert case.owner(repairing, case.untold) is None
        (listed,) = trust.Trust().list_trusts_for_trustor(
            case.taken['trustor_user_id']
        )
        assert listed['id'] == case.slow
        assert run_reconcile(repairing) == {}


def wait_until_known(datacenters: Cluster, up: bool) -> None:
    """Wait until the first datacenter's node knows how the other one is."""
    here, there = datacenters.nodes
    until(lambda: here.sees_up(there) == up, f'up: {up}', PATIENCE)


def until_back(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call until it no longer says 503: the datacenter is coming back."""

    def answered() -> list[Any]:
        try:
            return [call(*arguments)]
        except errors.StoreUnavailable:
            return []

    return until(answered, 'the other datacenter', PATIENCE)[0]
