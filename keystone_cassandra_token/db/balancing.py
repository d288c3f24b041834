# SPDX-License-Identifier: Apache-2.0
"""Ask a node that does not answer last.

A node that hangs keeps its connections open: until a heartbeat fails, some
seconds later, the driver goes on sending it its share of the requests.  So
who has waited for a node in vain says so here, and for a moment the node is
asked only if no other one can.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import cassandra.policies

#: Seconds for which a node that did not answer is asked last.
AVOIDED = 2.0


class SlowLast(cassandra.policies.WrapperPolicy):
    """A policy whose plans end with the nodes that did not answer lately.

    One for all profiles of a cluster.
    """

    def __init__(self, child: cassandra.policies.LoadBalancingPolicy) -> None:
        super().__init__(child)
        # Until when, as time.monotonic() counts; written by any thread.
        self._slow: dict[Any, float] = {}

    def is_slow(self, host: Any) -> None:
        """Note that a node has not answered when it was waited for.

        :param host: None, as the driver says, if it was none.
        """
        if host is not None:
            self._slow[host] = time.monotonic() + AVOIDED

    def excuse(self, hosts: Iterable[Any]) -> None:
        """Note that nodes did not answer since they waited for others."""
        for host in hosts:
            self._slow.pop(host, None)

    def answered(self, host: Any, tried: list[Any]) -> None:
        """Note which node has answered, and which were asked before it."""
        if self._slow:
            self._slow.pop(host, None)
        if tried[0] != host:
            self.is_slow(tried[0])

    def make_query_plan(
        self, working_keyspace: str | None = None, query: Any = None
    ) -> Iterator[Any]:
        plan = self._child_policy.make_query_plan(working_keyspace, query)
        if not self._slow:  # nearly always
            yield from plan
            return
        now, slow = time.monotonic(), []
        for host in plan:
            if self._slow.get(host, 0.0) > now:
                slow.append(host)
            else:
                self._slow.pop(host, None)
                yield host
        yield from slow
