# SPDX-License-Identifier: Apache-2.0
"""The installed command ``keystone-cassandra``, with a keystone.conf."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import keystone.conf
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from keystone_cassandra_token.cmd import main, reconcile

PROGRAM = Path(sys.executable).with_name('keystone-cassandra')


class Command:
    """Runs the command on a configuration file that this writes.

    :param folder: where to write the file.
    :param sections: section -> option -> value.
    """

    def __init__(
        self, folder: Path, sections: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.path = folder / 'keystone.conf'
        self.path.write_text(
            '\n'.join(
                f'[{section}]\n'
                + ''.join(
                    f'{name} = {value}\n' for name, value in opts.items()
                )
                for section, opts in sections.items()
            )
        )
        self.path.chmod(0o600)

    def arguments(self, *words: str) -> list[str]:
        return [str(PROGRAM), '--config-file', str(self.path), *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            env=_environment(),
        )

    def here(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command's ``main`` in this process.

        Without Keystone's start, a second and more.  Right where neither the
        process nor the installed program is what is tested.
        """
        return here(*self.arguments(*words)[1:])

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command; output and errors are pipes."""
        return subprocess.Popen(
            self.arguments(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )


def here(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``main`` with these arguments, as a process of its own would."""
    # Modules of Keystone keep the CONF that they find when they are imported.
    reconcile.all_derived()
    out, err = io.StringIO(), io.StringIO()
    conf = cfg.ConfigOpts()
    disabled = logging.root.manager.disable
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, _environment(), clear=True),
            mock.patch.object(keystone.conf, 'CONF', conf),
            mock.patch.object(cfg, 'CONF', conf),
        ):
            code = main.main(list(words))
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        logging.disable(disabled)
    return subprocess.CompletedProcess(
        words, code, out.getvalue(), err.getvalue()
    )


def for_nodes(
    folder: Path,
    nodes: Sequence[str],
    port: int,
    keyspace: str,
    **sections: Mapping[str, Any],
) -> Command:
    """Return the command for a cluster and a keyspace."""
    cassandra = {'port': port, 'keyspace': keyspace}
    return Command(
        folder,
        {
            **sections,
            'database': {'cassandra_node_ips': ','.join(nodes)},
            'cassandra': cassandra | dict(sections.get('cassandra', {})),
        },
    )


def configuration(path: Path) -> cfg.ConfigOpts:
    """Return Keystone's options as read from a file, apart from CONF."""
    conf = cfg.ConfigOpts()
    for module in keystone.conf.conf_modules:
        module.register_opts(conf)
    options.register_opts(conf)
    conf(
        ['--config-file', str(path)],
        project='keystone',
        default_config_files=[],
    )
    return conf


def _environment() -> dict[str, str]:
    # No configuration of this machine's.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith('OS_')
    }


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on standard error, which must be the only one."""
    lines = [line for line in done.stderr.splitlines() if line]
    # What Keystone itself warns of when it is imported is not ours.
    ours = [line for line in lines if line.startswith('keystone-cassandra: ')]
    assert len(ours) == 1, done.stderr
    assert 'Traceback' not in done.stderr
    return ours[0]
