# SPDX-License-Identifier: Apache-2.0
"""Demos that were left running: whose they are, and how they are stopped.

With Python's own library alone, so that stopping needs no environment.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab import CHECKOUT, TOOLS, LabError
from lab.command import output
from lab.ports import state_directory
from lab.processes import kill_marked

#: Of the folders below the state directory.
PREFIX = 'demo-'
#: What a demo's folder has in it.
KEYSTONE = 'keystone'
CASSANDRA = 'cassandra'
_RECORD = 'kept.json'


@dataclasses.dataclass(frozen=True)
class Kept:
    """One demo that runs.

    :ivar directory: its folder.
    :ivar port: of its Keystone.
    :ivar checkout: the one whose ``tools/demo`` it is.
    :ivar drop: the command that drops its keyspace in the cluster of
        somebody else; empty if the cluster is the demo's own.
    """

    directory: str
    port: int
    checkout: str
    drop: list[str]

    def save(self) -> None:
        """Write down in the folder that the demo is to run on."""
        text = json.dumps(dataclasses.asdict(self))
        Path(self.directory, _RECORD).write_text(text)

    def stop(self) -> None:
        """Stop the demo and remove its folder.

        :raises LabError: if its keyspace could not be dropped; the rest is
            gone then, too.
        """
        for group in KEYSTONE, CASSANDRA:
            kill_marked(os.path.join(self.directory, group))
        try:
            if self.drop:
                env = os.environ | {'PYTHONPATH': str(TOOLS)}
                output('Dropping the keyspace', self.drop, env=env)
        # Or its environment is gone.
        except (OSError, LabError) as error:
            raise LabError(
                f'{error}\nThe demo is stopped, but its keyspace could not be'
                ' dropped.'
            ) from error
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


def kept(checkout: str | None = None, port: int = 0) -> Iterator[Kept]:
    """Yield the demos of this account that were left running.

    :param checkout: only those of this one.
    :param port: only the one whose Keystone has it.
    """
    for record in Path(state_directory()).glob(f'{PREFIX}*/{_RECORD}'):
        found = Kept(**json.loads(record.read_text()))
        if checkout in (None, found.checkout) and port in (0, found.port):
            yield found


def stop(everywhere: bool, port: int) -> None:
    """Stop what was left running, and tell what that was.

    :param everywhere: also what other checkouts of this account left.
    :param port: only the demo whose Keystone has it; 0 means all.
    """
    for each in list(kept(None if everywhere else CHECKOUT, port)):
        print(
            f'Stopping the demo on port {each.port} of {each.checkout}.',
            flush=True,
        )
        each.stop()
    where = f' on port {port}' if port else ''
    others = 0 if everywhere else len(list(kept(None, port)))
    print(
        f'No demo{where} of this checkout is left running; of others:'
        f' {others} (tools/demo --stop --all).'
        if others
        else f'No demo{where} is left running.'
    )
