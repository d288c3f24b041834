# SPDX-License-Identifier: Apache-2.0
"""The tables, made sooner than the command makes them.

``python -m lab.schema --config-file FILE [DC=N ...]`` makes them with that
many replicas in each datacenter.
"""

import sys
from collections.abc import Collection, Mapping, Sequence

import keystone.conf
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.schema import (
    ddl,
    describe,
    files,
    migrate,
    parse,
)
from keystone_cassandra_token.schema import keyspace as keyspaces


def quick_schema(
    conf: cfg.ConfigOpts,
    replication: Mapping[str, int] | None = None,
    without: Collection[str] = (),
) -> None:
    """Make the keyspace and its tables, sooner than the command does.

    From ``current.cql``, which is what all migrations make: the nodes agree
    once, at the end, and the driver does not read each table again.

    :param without: tables to leave to a migrator that is tested.  Then no
        migration is recorded: it runs all of them, and what is there already
        takes it no time.
    """
    keyspaces.create_keyspace(conf, replication, report=lambda line: None)
    with ddl.connected(conf) as connection:
        cluster = connection.cluster
        cluster.max_schema_agreement_wait = 0
        cluster.schema_metadata_enabled = False
        name = conf.cassandra.keyspace
        for text in files.split(describe.packaged()):
            text = text.replace('{keyspace}', name)
            if parse.tables([text]).keys().isdisjoint(without):
                connection.session.execute(text, timeout=60)
        assert cluster.control_connection.wait_for_schema_agreement(
            wait_time=60
        )
        for text in [] if without else migrate.plan(conf, offline=True):
            if text.startswith('INSERT'):
                connection.session.execute(text, timeout=60)


def main(arguments: Sequence[str]) -> None:
    """Make the tables that a ``keystone.conf`` names."""
    option, file, *replicas = arguments
    assert option == '--config-file'
    keystone.conf.configure()
    conf = keystone.conf.CONF
    options.register_opts(conf)
    conf([], project='keystone', default_config_files=[file])
    pairs = (each.split('=') for each in replicas)
    quick_schema(conf, {name: int(number) for name, number in pairs})


if __name__ == '__main__':
    main(sys.argv[1:])
