# SPDX-License-Identifier: Apache-2.0
"""``keystone.resource.domain_config`` on Cassandra.

``domain_config`` has a partition for each domain, with all of its options.
Its ``incarnation`` is one for the partition, another one after each change.
A change reads which options there are, then writes and deletes in one
conditional batch: all of it or nothing.  So no reader sees a half, no clock
decides, and of two changes at once the later one is made on what the first
one left.  A batch whose reply is lost is settled by a serial read.

``config_register`` says which domain has what one alone can have, agreed on
in the whole deployment.

Values of sensitive options are in no message and no log; a change does not
even read them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keystone import exception
from keystone.i18n import _
from keystone.resource.config_backends import base
from oslo_log import log

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.compat import lengths
from keystone_cassandra_token.db import changes, clock
from keystone_cassandra_token.db.attempts import Attempts
from keystone_cassandra_token.db.cql import (
    escalated_read,
    lwt_global,
    lwt_global_read,
    lwt_local,
    lwt_local_read,
    read,
    scan,
)
from keystone_cassandra_token.db.outcome import created
from keystone_cassandra_token.db.rows import Row, boolean, json_text, text
from keystone_cassandra_token.drivers.base import Driver

LOG = log.getLogger(__name__)

#: What names an option of a domain: sensitive, group and option.
Name = tuple[bool, str, str]

DOMAIN_CONFIG = Row(
    'incarnation',
    domain_id=text(64),
    sensitive=boolean,
    group=text(255),
    option=text(255),
    value=json_text,
)
OPTION = DOMAIN_CONFIG.part(['group', 'option', 'value'])
NAME = DOMAIN_CONFIG.part(['sensitive', 'group', 'option', 'incarnation'])

_ONE = (
    ' WHERE domain_id = :domain_id AND sensitive = :sensitive'
    ' AND group = :group AND option = :option'
)
GET = read(f'SELECT {OPTION} FROM domain_config{_ONE}')
LIST = read(
    f'SELECT {OPTION} FROM domain_config'
    ' WHERE domain_id = :domain_id AND sensitive = :sensitive'
)
LIST_ALL = escalated_read(
    f'SELECT {DOMAIN_CONFIG} FROM domain_config WHERE domain_id = :domain_id'
)
LIST_NAMES = read(
    f'SELECT {NAME} FROM domain_config WHERE domain_id = :domain_id'
)
SETTLE = lwt_local_read(LIST_NAMES.cql)
# These three make a batch: whoever has changed something since it was read
# keeps all of them from being applied.
MARK = lwt_local(
    'UPDATE domain_config SET incarnation = :incarnation'
    ' WHERE domain_id = :domain_id IF incarnation = :seen'
)
PUT = lwt_local(
    f'UPDATE domain_config SET value = :value{_ONE} IF incarnation = :seen'
)
DROP = lwt_local(f'DELETE FROM domain_config{_ONE} IF incarnation = :seen')

REGISTRATION = Row(
    'incarnation', type=text(64), domain_id=text(64, required=True)
)
# Keystone asks who it was right after it lost against somebody, who may be in
# another datacenter.
GET_REGISTRATION = lwt_global_read(
    f'SELECT {REGISTRATION} FROM config_register WHERE type = :type'
)
# A domain goes with all that it has; there are as many rows as types, one.
LIST_REGISTRATIONS = scan(f'SELECT {REGISTRATION} FROM config_register')
# Of all domains one gets it.
REGISTER = lwt_global(
    f'INSERT INTO config_register ({REGISTRATION})'
    f' VALUES ({REGISTRATION.markers}) IF NOT EXISTS'
)
# Only its own.
RELEASE = lwt_global(
    'DELETE FROM config_register WHERE type = :type IF domain_id = :domain_id'
)


# What is read is not looked at: that of another datacenter comes here by it.
changes.FETCH['domain_config'] = lambda db, keys: db.many(
    LIST_ALL, DOMAIN_CONFIG, keys
)


class DomainConfig(Driver, base.DomainConfigDriverBase):
    """Options of domains in Cassandra."""

    def create_config_options(
        self, domain_id: str, option_list: Iterable[Mapping[str, Any]]
    ) -> None:
        put = {_name(each): each['value'] for each in option_list}
        self._change(domain_id, put, lambda now: now - put.keys())

    def get_config_option(
        self, domain_id: str, group: str, option: str, sensitive: bool = False
    ) -> dict[str, Any]:
        name = _columns((sensitive, group, option))
        found = self.db.one(GET, OPTION, domain_id=domain_id, **name)
        if found is None:
            raise exception.DomainConfigNotFound(
                domain_id=domain_id,
                group_or_option=_('option %(option)s in group %(group)s')
                % {'group': group, 'option': option},
            )
        return found

    def list_config_options(
        self,
        domain_id: str,
        group: str | None = None,
        option: str | bool | None = False,
        sensitive: bool = False,
    ) -> list[dict[str, Any]]:
        found = self.db.rows(
            LIST, OPTION, domain_id=domain_id, sensitive=sensitive
        )
        return [
            each
            for each in found
            if _matches(each['group'], each['option'], group, option)
        ]

    def update_config_options(
        self, domain_id: str, option_list: Iterable[Mapping[str, Any]]
    ) -> None:
        put: dict[Name, Any] = {}
        for each in option_list:
            # An option is sensitive or it is not, whatever it was.
            put.pop(_counterpart(_name(each)), None)
            put[_name(each)] = each['value']
        others = {_counterpart(name) for name in put}
        self._change(domain_id, put, lambda now: now & others)

    def delete_config_options(
        self,
        domain_id: str,
        group: str | None = None,
        option: str | None = None,
    ) -> None:
        self._change(
            domain_id,
            {},
            lambda now: {
                name for name in now if _matches(*name[1:], group, option)
            },
        )

    def obtain_registration(self, domain_id: str, type: str) -> bool:
        new = {
            'type': type,
            'domain_id': domain_id,
            'incarnation': clock.incarnation(),
        }
        lengths.check(new, REGISTRATION, 'config_register')
        return bool(
            self.db.cas_settled(
                REGISTER,
                GET_REGISTRATION,
                created(new['incarnation']),
                **new,
            )
        )

    def read_registration(self, type: str) -> str:
        found = self.db.one(GET_REGISTRATION, REGISTRATION, type=type)
        if found is None:
            raise exception.ConfigRegistrationNotFound()
        domain_id: str = found['domain_id']
        return domain_id

    def release_registration(
        self, domain_id: str, type: str | None = None
    ) -> None:
        types = [type] if type else self._types(domain_id)
        for each in types:
            self._release(domain_id, each)

    def _change(
        self,
        domain_id: str,
        put: Mapping[Name, Any],
        drop: Callable[[set[Name]], set[Name]],
    ) -> None:
        """Change a domain's options: all at once, or not at all.

        :param put: values to write.
        :param drop: returns which of the options there are now go.
        :raises OutcomeUnknown: if it cannot be found out whether it was
            done; it is safe to retry.
        :raises Contended: if too many others change them at once.
        """
        _warn_of_dollars(domain_id, put)
        for name in put:
            named = {'domain_id': domain_id, **_columns(name)}
            lengths.check(named, DOMAIN_CONFIG, 'domain_config')
        attempts = Attempts('options of domain', domain_id)
        while attempts.another():
            seen, now = self._names(domain_id)
            gone = drop(now)
            if not put and not gone:
                return
            left = put.keys() | now - gone
            new = clock.incarnation() if left else None
            if self._replace(domain_id, seen, new, put, gone):
                return

    def _replace(
        self,
        domain_id: str,
        seen: uuid.UUID | None,
        new: uuid.UUID | None,
        put: Mapping[Name, Any],
        gone: set[Name],
    ) -> bool:
        """Write a change; return False if another change was first."""
        on = {'domain_id': domain_id, 'seen': seen}
        steps = [
            (MARK, on | {'incarnation': new}),
            *((DROP, on | _columns(name)) for name in gone),
            *(
                # None is a value, too.
                (PUT, on | _columns(name) | {'value': json_text.encode(value)})
                for name, value in put.items()
            ),
        ]

        def applied(row: Mapping[str, Any] | None) -> bool | None:
            found = row['incarnation'] if row else None
            left = row is not None and row['option'] is not None
            if found == new and (new or not left):
                return True
            return None if found == seen else False

        return changes.telling(
            self.db,
            'domain_config',
            {'domain_id': domain_id},
            lambda: bool(
                self.db.cas_batch_settled(
                    *steps, settle=SETTLE, applied=applied, rows=[on]
                )
            ),
        )

    def _names(self, domain_id: str) -> tuple[uuid.UUID | None, set[Name]]:
        """Return the incarnation of a domain's options, and their names."""
        rows = self.db.rows(LIST_NAMES, NAME, domain_id=domain_id)
        incarnation = rows[0]['incarnation'] if rows else None
        # Without options there can be a row of the partition's column alone.
        return incarnation, {
            _name(row) for row in rows if row['option'] is not None
        }

    def _types(self, domain_id: str) -> list[str]:
        """Return what a domain is registered for."""
        return [
            row['type']
            for row in self.db.iterate(LIST_REGISTRATIONS, REGISTRATION)
            if row['domain_id'] == domain_id
        ]

    def _release(self, domain_id: str, type: str) -> None:
        if not self.db.cas_settled(
            RELEASE,
            GET_REGISTRATION,
            lambda row: (
                None if row and row['domain_id'] == domain_id else True
            ),
            type=type,
            domain_id=domain_id,
        ):
            return  # another domain's, or nobody's


def _warn_of_dollars(domain_id: str, put: Mapping[Name, Any]) -> None:
    """Warn of what Keystone cannot read back, on any driver.

    It gives these values to oslo.config, and fails requests of all domains
    where a ``$`` is followed by what is no option.
    """
    for (_sensitive, group, option), value in put.items():
        if options.is_substituted(value):
            LOG.warning(
                'Domain %s: [%s] %s was given a value with a `$` before a'
                ' name. oslo.config takes it for another option; if there is'
                ' none, Keystone fails requests of all domains. Write `$$`.',
                domain_id,
                group,
                option,
            )


def _name(option: Mapping[str, Any]) -> Name:
    return bool(option['sensitive']), option['group'], option['option']


def _counterpart(name: Name) -> Name:
    sensitive, group, option = name
    return not sensitive, group, option


def _columns(name: Name) -> dict[str, Any]:
    return dict(zip(('sensitive', 'group', 'option'), name, strict=True))


def _matches(
    group: str,
    option: str,
    wanted_group: str | None,
    wanted_option: str | bool | None,
) -> bool:
    """Return whether an option is asked for; one alone names no option."""
    if not wanted_group:
        return True
    return group == wanted_group and (
        not wanted_option or option == wanted_option
    )
