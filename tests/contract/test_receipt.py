# SPDX-License-Identifier: Apache-2.0
"""The receipt provider against a real node, beside Keystone's Fernet one."""

import datetime
import uuid

import pytest
from keystone import exception
from keystone.common import fernet_utils
from keystone.common import utils as ks_utils
from keystone.models.receipt_model import ReceiptModel
from keystone.receipt.providers.fernet import core as fernet
from oslo_utils import timeutils

from keystone_cassandra_token.db import clock
from keystone_cassandra_token.drivers.token import receipt as receipts
from keystone_cassandra_token.drivers.token.opaque_ids import hashed
from tests.contract import lives, ttls
from tests.fault import faults

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture
def provider(store):
    return receipts.Provider()


@pytest.fixture
def theirs(conf, tmp_path):
    conf.set_override('key_repository', str(tmp_path), 'fernet_receipts')
    fernet_utils.FernetUtils(
        str(tmp_path), conf.fernet_receipts.max_active_keys, 'fernet_receipts'
    ).initialize_key_repository()
    yield fernet.Provider()
    conf.clear_override('key_repository', 'fernet_receipts')


@pytest.fixture
def session(store):
    return store.sessions.get().session


def new(seconds=300, **values):
    receipt = ReceiptModel()
    receipt.user_id = uuid.uuid4().hex
    receipt.methods = ['password', 'totp']
    expires_at = clock.utcnow() + seconds * SECOND
    receipt.expires_at = ks_utils.isotime(expires_at, subsecond=True)
    for name, value in values.items():
        setattr(receipt, name, value)
    return receipt


def make(provider, **values):
    """Issue a receipt; return its id."""
    return provider.generate_id_and_issued_at(new(**values))[0]


def life(conf, session, keyspace, receipt_id):
    key = {'id_hash': hashed(conf, receipt_id)}
    return ttls.ttls(session, keyspace, 'receipt', key)


class TestRoundTrip:
    def test_what_goes_in_comes_back(self, provider):
        receipt = new()
        receipt_id, issued_at = provider.generate_id_and_issued_at(receipt)
        assert provider.validate_receipt(receipt_id) == (
            receipt.user_id,
            receipt.methods,
            issued_at,
            receipt.expires_at,
        )

    def test_the_answer_is_as_fernets(self, provider, theirs):
        """But for the order of methods, which are bits of a mask there."""
        receipt = new(methods=['token', 'password'])
        said = [
            each.validate_receipt(each.generate_id_and_issued_at(receipt)[0])
            for each in (provider, theirs)
        ]
        for each in said:
            assert [type(value) for value in each] == [str, list, str, str]
            assert each[0] == receipt.user_id
            assert sorted(each[1]) == sorted(receipt.methods)
            timeutils.parse_isotime(each[2])
        ours, fernets = said
        assert ours[3] == fernets[3]
        assert len(ours[2]) == len(fernets[2])

    @pytest.mark.parametrize(
        'methods', [['totp', 'password'], ['password'], ['password', 'ä:水']]
    )
    def test_methods_keep_their_order(self, provider, methods):
        receipt_id = make(provider, methods=methods)
        assert provider.validate_receipt(receipt_id)[1] == methods

    def test_times(self, provider):
        expires_at = clock.utcnow().replace(microsecond=123456) + 60 * SECOND
        receipt = new(expires_at=expires_at.isoformat() + 'Z')
        before = clock.utcnow().replace(microsecond=0)
        receipt_id, issued_at = provider.generate_id_and_issued_at(receipt)
        assert issued_at.endswith('.000000Z')
        parsed = timeutils.normalize_time(timeutils.parse_isotime(issued_at))
        assert before <= parsed <= clock.utcnow()
        found = provider.db.one(
            receipts.GET,
            receipts.RECEIPT,
            id_hash=hashed(provider.conf, receipt_id),
        )
        assert found['expires_at'] == expires_at

    def test_no_two_are_equal(self, provider):
        made = {make(provider) for _ in range(5)}
        assert len(made) == 5
        assert {each[:4] for each in made} == {receipts.PREFIX}
        assert {len(each) for each in made} == {47}

    def test_each_is_one_statement(self, provider, store):
        with faults.counted(store) as sent:
            receipt_id = make(provider)
            provider.validate_receipt(receipt_id)
        assert sent == [(receipts.INSERT,), (receipts.GET,)]


class TestExpiry:
    @pytest.mark.parametrize('seconds', [300, 60, 86400])
    def test_every_column_expires_with_it(
        self, provider, conf, session, keyspace, seconds
    ):
        receipt_id = make(provider, seconds=seconds)
        found = life(conf, session, keyspace, receipt_id)
        assert sorted(found) == ttls.columns(session, keyspace, 'receipt')
        ttls.check(found, seconds)

    def test_it_goes_by_itself(self, provider):
        def make_and_use(life):
            receipt_id = make(provider, seconds=life)
            provider.validate_receipt(receipt_id)
            return receipt_id

        def there():
            try:
                return provider.validate_receipt(receipt_id)
            except exception.ReceiptNotFound:
                return None

        receipt_id = lives.long_enough(make_and_use)
        lives.until_gone(there)

    @pytest.mark.parametrize('seconds', [0, -1, -3600])
    def test_what_is_over_is_not_stored(self, provider, store, seconds):
        with faults.counted(store) as sent:
            receipt_id, issued_at = provider.generate_id_and_issued_at(
                new(seconds)
            )
        assert sent == []
        assert timeutils.parse_isotime(issued_at)
        with pytest.raises(exception.ReceiptNotFound):
            provider.validate_receipt(receipt_id)


GARBAGE = [
    '',
    'x' * 47,
    receipts.PREFIX,
    receipts.PREFIX + 'x' * 42,
    receipts.PREFIX + 'x' * 44,
    receipts.PREFIX + '\n' * 43,
    'gAAAAAB' + 'x' * 100,
    'ä' * 47,
]


class TestUnknown:
    @pytest.mark.parametrize(
        'receipt_id', [*GARBAGE, receipts.PREFIX + 'x' * 43]
    )
    def test_it_is_refused_as_by_fernet(self, provider, theirs, receipt_id):
        said = []
        for each in (provider, theirs):
            with pytest.raises(exception.Error) as refused:
                each.validate_receipt(receipt_id)
            said.append(type(refused.value))
        assert said == [exception.ReceiptNotFound] * 2

    @pytest.mark.parametrize('receipt_id', [*GARBAGE, None, 1, b'kr1_'])
    def test_garbage_costs_no_query(self, provider, store, receipt_id):
        with (
            faults.counted(store) as sent,
            pytest.raises(exception.ReceiptNotFound),
        ):
            provider.validate_receipt(receipt_id)
        assert sent == []

    def test_the_refusal_does_not_quote_it(self, provider, conf):
        unknown = receipts.IDS.make(conf, 'dc1')
        with pytest.raises(exception.ReceiptNotFound) as refused:
            provider.validate_receipt(unknown)
        assert unknown not in str(refused.value)

    def test_a_token_is_none(self, provider, store):
        """Even with the same random part."""
        receipt_id = make(provider)
        with pytest.raises(exception.ReceiptNotFound):
            provider.validate_receipt('kc1_' + receipt_id[4:])


class TestSecrecy:
    @pytest.mark.parametrize('key', [None, 'k' * 40])
    def test_no_row_has_the_id(self, provider, conf, session, keyspace, key):
        conf.set_override('token_key', key, 'cassandra')
        try:
            receipt_id = make(provider)
            provider.validate_receipt(receipt_id)
            rows = session.execute(f'SELECT * FROM {keyspace}.receipt')
            stored = [value for row in rows for value in row.values()]
            assert hashed(conf, receipt_id) in stored
        finally:
            conf.clear_override('token_key', 'cassandra')
        secret = receipt_id.removeprefix(receipts.PREFIX)
        assert not [value for value in stored if secret in str(value)]
        if key:
            # Who writes the table cannot make one without the key.
            with pytest.raises(exception.ReceiptNotFound):
                provider.validate_receipt(receipt_id)
