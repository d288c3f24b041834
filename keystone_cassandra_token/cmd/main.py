# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra``: the operator's command.

Reads Keystone's configuration as ``keystone-manage`` does.  Exit codes: 0 all
is well, 1 it failed or found something, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import re
import sys
from typing import Any

import keystone.conf
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import (
    doctor,
    metrics,
    reconcile,
    region,
    schema,
)
from keystone_cassandra_token.db import errors
from keystone_cassandra_token.schema import keyspace, lease, migrate

_DISTRIBUTION = 'keystone-cassandra-token'


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    :param argv: arguments without the program's name.
    :returns: the exit code.
    """
    conf = keystone.conf.CONF
    try:
        _configure(conf, sys.argv[1:] if argv is None else argv)
        code = int(conf.command.run(conf) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has enough; spare Python's own complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        options.ConfigurationError,
        migrate.MigrationError,
        lease.LeaseTaken,
        cfg.Error,
        ValueError,
    ) as error:
        return _failed(str(error))
    except errors.StoreUnavailable as error:
        return _failed(error.reason)
    except errors.DRIVER_ERRORS as error:
        return _failed(errors.explain(error))
    except KeyboardInterrupt:
        return _failed('Interrupted; running it again is safe.')


def _failed(text: str) -> int:
    print(f'keystone-cassandra: {" ".join(text.split())}', file=sys.stderr)
    return 1


def _configure(conf: cfg.ConfigOpts, argv: list[str]) -> None:
    conf.register_cli_opt(
        cfg.SubCommandOpt('command', title='Commands', handler=add_commands)
    )
    keystone.conf.configure()
    # As servers do: what is not set must be here what it is there.
    keystone.conf.set_config_defaults()
    options.register_opts(conf)
    conf(
        args=argv,
        project='keystone',
        prog='keystone-cassandra',
        version=importlib.metadata.version(_DISTRIBUTION),
        description='Keystone data in Apache Cassandra.',
    )
    # One line says what failed; Keystone's log file is the servers'.
    if conf.debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    else:
        logging.disable(logging.CRITICAL)


def add_commands(parsers: Any) -> None:
    parser = parsers.add_parser('keyspace', help='make the keyspace')
    actions = parser.add_subparsers(dest='action', required=True)
    create = actions.add_parser('create', help='make the keyspace')
    create.add_argument(
        '--replication',
        type=replication,
        metavar='DC=N,...',
        help='replicas by datacenter; default: 3 in each, or as many as it'
        ' has nodes',
    )
    create.set_defaults(run=_create_keyspace)
    schema.add_commands(
        parsers.add_parser('schema', help='make or check the tables')
    )
    region.add_commands(
        parsers.add_parser('region', help='let a region serve')
    )
    parser = parsers.add_parser('doctor', help='look for what would go wrong')
    parser.set_defaults(run=_examine)
    reconcile.add_command(
        parsers.add_parser('reconcile', help='fix index tables and names')
    )
    metrics.add_command(
        parsers.add_parser('metrics', help='serve metrics to Prometheus')
    )


def replication(text: str) -> dict[str, int]:
    """Return replicas by datacenter from ``dc1=3,dc2=3``.

    :raises argparse.ArgumentTypeError: if it is not like that.
    """
    found: dict[str, int] = {}
    for part in text.split(','):
        pair = re.fullmatch(r'\s*([\w.-]+)\s*=\s*([1-9]\d?)\s*', part)
        if pair is None or pair[1] in found:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not like dc1=3,dc2=3'
            )
        found[pair[1]] = int(pair[2])
    return found


def _create_keyspace(conf: cfg.ConfigOpts) -> None:
    keyspace.create_keyspace(conf, conf.command.replication)


def _examine(conf: cfg.ConfigOpts) -> bool:
    return doctor.run(conf) > 0
