# SPDX-License-Identifier: Apache-2.0
"""The federated identities of a user, as two regions may have changed them."""

import itertools

import pytest

from keystone_cassandra_token.drivers.identity import identities

NOBODY = {'federated': None, 'identities': None}


def identity(unique_id, shown='shown'):
    return {
        'idp_id': 'provider',
        'protocol_id': 'saml2',
        'unique_id': unique_id,
        'display_name': shown,
    }


ONE, TWO, THREE = map(identity, ('one', 'two', 'three'))


def made(user, *found):
    """Return a user whose identities are these now."""
    return merged(user, identities.setting(user, found))


def merged(user, *changes):
    """Return a user with changes of several regions, the last one later."""
    entries = {**(user['identities'] or {})}
    for each in changes:
        entries |= each['identities']
    return {'federated': changes[-1]['federated'], 'identities': entries}


@pytest.fixture
def user():
    return made(NOBODY, ONE)


def test_they_are_in_order():
    for order in itertools.permutations([ONE, TWO, THREE]):
        assert identities.of(made(NOBODY, *order)) == [*order]


def test_one_that_is_shown_otherwise_stays_where_it_was(user):
    both = made(user, ONE, TWO)
    again = made(both, identity('one', 'other'), TWO)
    assert identities.of(again) == [identity('one', 'other'), TWO]


def test_what_two_regions_add_stays(user):
    here = identities.setting(user, [ONE, TWO])
    there = identities.setting(user, [ONE, THREE])
    for changes in (here, there), (there, here):
        found = identities.of(merged(user, *changes))
        assert found[0] == ONE
        assert sorted(found, key=str) == sorted([ONE, TWO, THREE], key=str)


def test_what_one_region_removes_stays_away(user):
    here = identities.setting(user, [])
    there = identities.setting(user, [ONE, TWO])
    # An entry that the other one has not changed is not written by it.
    there['identities'] = {
        label: entry
        for label, entry in there['identities'].items()
        if entry != user['identities'].get(label)
    }
    for changes in (here, there), (there, here):
        assert identities.of(merged(user, *changes)) == [TWO]


class TestFormerVersion:
    """It reads and writes the list alone."""

    def test_what_it_has_made_comes_first(self):
        user = {'federated': [TWO, ONE], 'identities': None}
        assert identities.of(user) == [TWO, ONE]
        more = made(user, TWO, ONE, THREE)
        assert identities.of(more) == [TWO, ONE, THREE]
        assert more['federated'] == [TWO, ONE, THREE]

    def test_what_it_adds_is_there(self, user):
        user['federated'] = [ONE, TWO]
        assert sorted(identities.of(user), key=str) == [ONE, TWO]
        assert identities.of(made(user, ONE)) == [ONE]

    def test_one_can_come_again(self, user):
        assert identities.of(made(made(user), ONE)) == [ONE]
