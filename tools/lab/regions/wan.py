# SPDX-License-Identifier: Apache-2.0
"""Starts the router's process and gives it orders."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from lab import TOOLS, LabError
from lab.processes import Group


class Wan:
    """The network between regions; of one process, for all its threads.

    :param devices: descriptors of TUN devices, the first region's first.
    :param group: what the router's process belongs to.
    :param log: a file that takes what the process says.
    :param parameters: ``rtt_ms``, ``loss`` and ``seed`` of
        :class:`lab.regions.router.Router`.
    """

    def __init__(
        self,
        devices: Sequence[int],
        group: Group,
        log: str,
        **parameters: Any,
    ) -> None:
        self._turn = threading.Lock()
        self._control, theirs = socket.socketpair()
        self._answers = self._control.makefile('rb')
        passed = [theirs.fileno(), *devices]
        with theirs, open(log, 'ab') as output:
            group.spawn(
                [
                    *(sys.executable, '-P', '-m', 'lab.regions.router'),
                    json.dumps(parameters),
                    *map(str, passed),
                ],
                os.environ | {'PYTHONPATH': str(TOOLS)},
                pass_fds=passed,
                stdout=output,
                stderr=output,
            )
        self.state()

    def cut(self, region: int) -> None:
        """Let nothing leave or reach a region, until ``heal``."""
        self._order(cut=region)

    def heal(self, region: int | None = None) -> None:
        """End the cut of a region, or all cuts."""
        self._order(heal=region)

    def slow(self, rtt_ms: float, region: int | None = None) -> None:
        """As :meth:`lab.regions.router.Router.slow`."""
        self._order(rtt_ms=rtt_ms, region=region)

    def lose(self, share: float) -> None:
        """Lose a share of all packets between regions, 0 to 1."""
        self._order(loss=share)

    def state(self) -> dict[str, Any]:
        """As :meth:`lab.regions.router.Router.state`."""
        return self._order()

    def close(self) -> None:
        """End the router's process; idempotent."""
        self._answers.close()
        self._control.close()

    def _order(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait until it is in force.

        :raises LabError: the router has ended.
        """
        with self._turn:
            try:
                self._control.sendall(json.dumps(order).encode() + b'\n')
                answer = self._answers.readline()
            except OSError:
                answer = b''
        if not answer:
            raise LabError('the router between the regions has ended')
        state: dict[str, Any] = json.loads(answer)
        return state
