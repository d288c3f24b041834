# SPDX-License-Identifier: Apache-2.0
"""The parts of one request, done side by side.

A part is several statements, each of which needs the answer to the one before:
a claim, its entity, its index rows.  What has hundreds of parts would wait
thousands of times in a row.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import TypeVar

from keystone_cassandra_token.db import deadline, remembered
from keystone_cassandra_token.db.store import Store

T = TypeVar('T')
U = TypeVar('U')

#: So many parts are not worth a thread.
FEW = 4


def each(
    db: Store, work: Callable[[Store, T], U], parts: Iterable[T]
) -> list[U]:
    """Do the same with each part; return the results in their order.

    At most ``[cassandra] concurrency`` parts are worked on at once.  They
    must not need each other, and are best of different partitions: in one
    partition conditional writes get into each other's way.

    :param work: is given a store and a part.
    :raises: what the first one that failed has raised.  Those not begun by
        then are left.
    """
    left = list(parts)
    if len(left) <= FEW:
        return [work(db, part) for part in left]
    helpers = min(len(left), db.conf.cassandra.concurrency)
    inner = db.for_helpers()
    shared = deadline.shared(db.conf.cassandra.request_deadline)

    def done(part: T) -> U:
        with shared():
            return work(inner, part)

    with concurrent.futures.ThreadPoolExecutor(helpers) as threads:
        futures = [threads.submit(done, part) for part in left]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        finally:
            # The threads have written, perhaps.
            remembered.forget()
