# SPDX-License-Identifier: Apache-2.0
"""Times and TTLs."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystone_cassandra_token.db import clock

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, 250000)
SECOND = datetime.timedelta(seconds=1)
MICROSECOND = datetime.timedelta(microseconds=1)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets the present."""

    def setter(now: datetime.datetime) -> None:
        monkeypatch.setattr(clock, 'utcnow', lambda: now)

    setter(NOW)
    return setter


@given(st.datetimes())
def test_microseconds_round_trip(time) -> None:
    assert clock.from_micros(clock.to_micros(time)) == time


@given(st.datetimes(), st.datetimes())
def test_microseconds_keep_the_order(one, other) -> None:
    assert (one < other) is (clock.to_micros(one) < clock.to_micros(other))


def test_aware_times_are_normalised() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    aware = datetime.datetime(1970, 1, 1, 2, 0, 0, 7, tzinfo=zone)
    assert clock.to_micros(aware) == 7


def test_the_present_is_naive_utc() -> None:
    now = clock.utcnow()
    assert now.tzinfo is None
    real = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert abs(real - now) < datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ('end', 'extra', 'ttl'),
    [
        (NOW + 60 * SECOND, 0, 60),
        (NOW + 60 * SECOND, 3600, 3660),
        (NOW + MICROSECOND, 0, 1),
        (NOW + 60 * SECOND + MICROSECOND, 0, 61),
        (NOW + 60 * SECOND - MICROSECOND, 0, 60),
        (NOW, 0, 0),
        (NOW - MICROSECOND, 0, 0),
        (NOW - SECOND, 0, -1),
        (NOW - 10 * SECOND, 30, 20),
    ],
)
def test_ttls_are_rounded_up(at, end, extra, ttl) -> None:
    assert clock.ttl_until(end, extra) == ttl


@given(
    seconds=st.integers(-(10**6), 10**8),
    micros=st.integers(0, 10**6),
    extra=st.integers(0, 10**6),
)
def test_a_row_lives_at_least_to_its_end_and_under_a_second_longer(
    seconds, micros, extra
) -> None:
    end = NOW + datetime.timedelta(seconds=seconds, microseconds=micros)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, 'utcnow', lambda: NOW)
        ttl = clock.ttl_until(end, extra)
    late = NOW + ttl * SECOND - (end + extra * SECOND)
    assert datetime.timedelta(0) <= late < SECOND


@pytest.mark.parametrize('year', [2038, 2100, 9999])
def test_no_row_is_said_to_expire_after_2038(at, year) -> None:
    ttl = clock.ttl_until(datetime.datetime(year, 6, 1))
    assert NOW + ttl * SECOND <= datetime.datetime(2038, 1, 19, 3, 14, 5)
    assert NOW + (ttl + 1) * SECOND > datetime.datetime(2038, 1, 19, 3, 14, 5)


def test_no_ttl_is_longer_than_20_years(at) -> None:
    at(datetime.datetime(2010, 1, 1))
    assert clock.cap_ttl(2**40) == clock.MAX_TTL == 630720000
    assert clock.cap_ttl(clock.MAX_TTL - 1) == clock.MAX_TTL - 1


def test_the_cap_counts_with_the_extra(at) -> None:
    at(datetime.datetime(2038, 1, 19, 3, 0, 0))
    end = datetime.datetime(2038, 1, 19, 3, 10, 0)
    assert clock.ttl_until(end) == 600
    assert clock.ttl_until(end, 3600) == 845
