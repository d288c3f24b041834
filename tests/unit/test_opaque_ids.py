# SPDX-License-Identifier: Apache-2.0
"""Ids of tokens and receipts: form, tag and hint."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets
import string
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.db import clock, errors, escalation
from keystone_cassandra_token.drivers.token import opaque_ids
from keystone_cassandra_token.drivers.token.opaque_ids import OpaqueIds

IDS = OpaqueIds('kc1_')
OTHER = OpaqueIds('kr1_')
KEY = 'k' * 40
ALPHABET = string.ascii_letters + string.digits + '-_'

Make = Callable[..., cfg.ConfigOpts]


def options_of(**values: object) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[])
    for name, value in values.items():
        conf.set_override(name, value, group=options.GROUP)
    return conf


#: For tests that are given many values.
STRICT = options_of(token_key=KEY, accept_untagged_ids=False)


def former() -> str:
    """Return an id as servers of the former version make them."""
    return 'kc1_' + secrets.token_urlsafe(32)


@pytest.fixture
def keyed(make_conf: Make) -> cfg.ConfigOpts:
    return make_conf(token_key=KEY)


@pytest.fixture
def strict(make_conf: Make) -> cfg.ConfigOpts:
    return make_conf(token_key=KEY, accept_untagged_ids=False)


@pytest.fixture(params=[None, KEY], ids=['no key', 'key'])
def any_conf(
    make_conf: Make, request: pytest.FixtureRequest
) -> cfg.ConfigOpts:
    return make_conf(token_key=request.param)


def test_an_id_has_the_form_of_the_former_version(
    any_conf: cfg.ConfigOpts,
) -> None:
    for _ in range(100):
        made = IDS.make(any_conf, 'one')
        assert made.startswith('kc1_')
        assert len(made) == len(former())
        assert IDS.fits(any_conf, made)
        # As these made it: the last character has no bits to spare.
        raw = urlsafe_b64decode(made[4:] + '=')
        assert len(raw) == 32
        assert urlsafe_b64encode(raw).decode() == f'{made[4:]}='


def test_ids_of_the_former_version_fit(any_conf: cfg.ConfigOpts) -> None:
    assert IDS.fits(any_conf, former())


def test_no_two_are_the_same(any_conf: cfg.ConfigOpts) -> None:
    made = {IDS.make(any_conf, 'one')[12:36] for _ in range(1000)}
    assert len(made) == 1000


def test_the_tag_is_as_it_is_written(keyed: cfg.ConfigOpts) -> None:
    """Servers of all versions and regions must make the same."""
    made = IDS.make(keyed, 'one')
    tag = hmac.digest(KEY.encode(), b'tag ' + made[:36].encode(), 'sha256')
    assert urlsafe_b64decode(made[36:] + '=') == tag[:8]
    # Nor does it tell anything of what is stored.
    assert opaque_ids.hashed(keyed, made)[:8] != tag[:8]


def test_the_hint(any_conf: cfg.ConfigOpts) -> None:
    made = IDS.make(any_conf, 'one')
    hint = IDS.hint(any_conf, made)
    assert hint is not None
    assert hint.datacenter == hashlib.sha256(b'one').digest()[:2]
    assert hint.among(['two', 'one', 'three']) == ['one']
    assert hint.among(['two']) == []
    assert hint.is_fresh()
    assert hint.is_tagged == bool(any_conf.cassandra.token_key)


@pytest.mark.parametrize(
    ('ago', 'fresh'),
    [
        (-escalation.AHEAD - datetime.timedelta(minutes=1), False),
        (-escalation.AHEAD, True),
        (datetime.timedelta(0), True),
        (escalation.FRESH - datetime.timedelta(minutes=1), True),
        (escalation.FRESH + datetime.timedelta(minutes=1), False),
        (datetime.timedelta(days=365), False),
        (datetime.timedelta(days=365 * 25), False),
    ],
)
def test_what_is_fresh(
    conf: cfg.ConfigOpts,
    monkeypatch: pytest.MonkeyPatch,
    ago: datetime.timedelta,
    fresh: bool,
) -> None:
    now = datetime.datetime(2026, 12, 1, 12, 0)
    monkeypatch.setattr(clock, 'utcnow', lambda: now - ago)
    made = IDS.make(conf, 'one')
    monkeypatch.setattr(clock, 'utcnow', lambda: now)
    hint = IDS.hint(conf, made)
    assert hint is not None
    assert hint.is_fresh() == fresh


@pytest.mark.parametrize('year', [1990, 2019, 2051, 2052, 2100])
def test_any_clock_makes_ids(
    conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    now = datetime.datetime(year, 1, 1)
    monkeypatch.setattr(clock, 'utcnow', lambda: now)
    hint = IDS.hint(conf, IDS.make(conf, 'one'))
    assert hint is not None
    assert hint.is_fresh()


def test_a_tag_is_of_one_kind_of_ids(strict: cfg.ConfigOpts) -> None:
    made = IDS.make(strict, 'one')
    assert IDS.fits(strict, made)
    assert not OTHER.fits(strict, made)
    assert not OTHER.fits(strict, 'kr1_' + made[4:])
    hint = OTHER.hint(strict, 'kr1_' + made[4:])
    assert hint is not None
    assert not hint.is_tagged


def test_one_character_that_is_another_takes_the_tag(
    strict: cfg.ConfigOpts,
) -> None:
    made = IDS.make(strict, 'one')
    for place in range(4, len(made)):
        for other in set(ALPHABET) - {made[place]}:
            changed = made[:place] + other + made[place + 1 :]
            assert not IDS.fits(strict, changed)
            hint = IDS.hint(strict, changed)
            assert hint is not None
            assert not hint.is_tagged


def test_another_key_takes_the_tag(
    strict: cfg.ConfigOpts, make_conf: Make
) -> None:
    other = make_conf(token_key='o' * 40, accept_untagged_ids=False)
    assert not IDS.fits(other, IDS.make(strict, 'one'))


def test_untagged_ids_are_refused_if_they_are_to_be(
    strict: cfg.ConfigOpts, make_conf: Make
) -> None:
    assert not IDS.fits(strict, former())
    assert not IDS.fits(strict, IDS.make(make_conf(), 'one'))


def test_without_a_key_there_is_no_tag_to_ask_for(make_conf: Make) -> None:
    conf = make_conf(accept_untagged_ids=False)
    assert IDS.fits(conf, former())


@pytest.mark.parametrize('value', [None, 1, b'kc1_' + 43 * b'A', '', 'x'])
def test_what_is_no_id_has_no_hint(
    any_conf: cfg.ConfigOpts, value: object
) -> None:
    assert not IDS.fits(any_conf, value)
    assert IDS.hint(any_conf, value) is None


@given(text=st.text(st.sampled_from(ALPHABET), min_size=43, max_size=43))
def test_of_anything_invented_the_tag_is_wrong(text: str) -> None:
    value = f'kc1_{text}'
    hint = IDS.hint(STRICT, value)
    assert hint is not None
    assert not hint.is_tagged
    assert not IDS.fits(STRICT, value)


@given(value=st.text(max_size=60))
def test_any_text_has_an_answer(value: str) -> None:
    for each in (value, f'kc1_{value}'):
        hint = IDS.hint(STRICT, each)
        assert IDS.fits(STRICT, each) == bool(hint and hint.is_tagged)


def test_a_key_that_cannot_be_read_is_no_missing_token(
    make_conf: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = make_conf()
    monkeypatch.setenv('OS_CASSANDRA__TOKEN_KEY', 'a$b' * 20)
    for call in (
        lambda: IDS.make(conf, 'one'),
        lambda: IDS.hint(conf, former()),
        lambda: opaque_ids.hashed(conf, former()),
    ):
        with pytest.raises(errors.StoreUnavailable):
            call()
