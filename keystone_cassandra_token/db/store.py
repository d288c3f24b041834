# SPDX-License-Identifier: Apache-2.0
"""The store: few verbs over statements.

So a driver is statements and thin methods.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keystone_cassandra_token.db import (
    awaited,
    consistency,
    cql,
    errors,
    metrics,
    remembered,
    watch,
)
from keystone_cassandra_token.db.connection import Connection
from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.outcome import Applied, Outcome, settled
from keystone_cassandra_token.db.request import Future, Request
from keystone_cassandra_token.db.rows import Row
from keystone_cassandra_token.db.sender import UNSET, Sender, Step, read_key

if TYPE_CHECKING:
    from keystone_cassandra_token.db.escalation import Escalation

#: In an UPDATE: leave this column as it is.
KEEP = UNSET


class Store(Sender):
    """Runs statements on the process's session.

    All verbs take the markers' values by name and raise
    :class:`~errors.StoreUnavailable` where Cassandra cannot answer.

    :ivar escalation: seeks what is not found here in other datacenters; None
        where nobody does.
    """

    escalation: Escalation | None = None

    def close(self) -> None:
        super().close()
        if self.escalation is not None:
            self.escalation.close()

    def one(
        self, statement: Statement, row: Row, **binds: Any
    ) -> dict[str, Any] | None:
        """Return the row that a read finds, or None."""
        found = self.rows(statement, row, **binds)
        return found[0] if found else None

    def one_async(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Future[dict[str, Any] | None]:
        """Send a read; return the future of its row.

        The read is in progress while the caller does something else.
        """
        return self.rows_async(statement, row, **binds).then(
            lambda found: found[0] if found else None
        )

    def rows_async(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Future[list[dict[str, Any]]]:
        """Send a read; return the future of its rows."""
        with self._translated(statement):
            pending = self._start(statement, binds, later=True)

        def wait() -> list[dict[str, Any]]:
            with self._translated(statement):
                return [row.load(stored) for stored in pending.result()]

        return Future(wait)

    def rows(
        self, statement: Statement, row: Row, **binds: Any
    ) -> list[dict[str, Any]]:
        """Return all rows that a read finds, fetched page by page."""
        return list(self.iterate(statement, row, **binds))

    def iterate(
        self, statement: Statement, row: Row, **binds: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows that a read finds, fetching pages as needed."""
        with self._translated(statement):
            for stored in self._start(statement, binds).result():
                yield row.load(stored)

    def many(
        self,
        statement: Statement,
        row: Row,
        keys: Iterable[Mapping[str, Any]],
    ) -> list[list[dict[str, Any]]]:
        """Return the rows that a read finds for each key, in their order.

        At most ``[cassandra] concurrency`` reads are under way at once.
        """
        found: list[list[dict[str, Any]]] = []
        with self._translated(statement):
            remaining = iter(keys)
            window = collections.deque(
                self._start(statement, key, later=True)
                for key in itertools.islice(
                    remaining, self.conf.cassandra.concurrency
                )
            )
            while window:
                found.append(
                    [row.load(stored) for stored in window.popleft().result()]
                )
                for key in itertools.islice(remaining, 1):
                    window.append(self._start(statement, key, later=True))
        return found

    def known(
        self, statement: Statement, row: Row, **binds: Any
    ) -> list[dict[str, Any]] | None:
        """Return what the client's request has read already, or None."""
        reads, connection = remembered.current(), self.sessions.current
        if not reads or not connection or statement not in connection.prepared:
            return None
        with contextlib.suppress(errors.ValueRefused):
            bound = self.bind(connection, statement, binds)
            found = reads.get(read_key(connection, statement, bound))
            if found is not None:
                return [row.load(each) for each in found]
        return None

    def run(self, statement: Statement, **binds: Any) -> None:
        """Run a plain write."""
        self.run_async(statement, **binds).result()

    def run_async(self, statement: Statement, **binds: Any) -> Future[None]:
        """Send a plain write; return the future of its end."""
        cql.check_plain(statement)
        with self._translated(statement):
            pending = self._start(statement, binds, later=True)

        def wait() -> None:
            with self._translated(statement):
                pending.result()

        return Future(wait)

    def run_each_async(self, steps: Iterable[Step]) -> Future[None]:
        """Send plain writes side by side; return the future of their end.

        Whatever one of them ends with, all of them are waited for.
        """
        sent = [self.run_async(each, **binds) for each, binds in steps]

        def wait() -> None:
            with contextlib.ExitStack() as waiting:
                for each in sent:
                    waiting.callback(each.result)

        return Future(wait)

    def cas(self, statement: Statement, **binds: Any) -> Outcome:
        """Run a conditional write.

        :raises OutcomeUnknown: if it may or may not have been applied.
        """
        cql.check_conditional(statement)
        with self._translated(statement):
            row = self._start(statement, binds).result().one()
        return _outcome(statement, row)

    def cas_batch(self, *steps: Step) -> Outcome:
        """Run conditional writes of one partition: all or none.

        :raises OutcomeUnknown: as :meth:`cas`.
        """
        statement = cql.of_one_class(steps)
        cql.check_conditional(statement)
        with self._translated(statement):
            row = self._start_batch(steps).result().one()
        return _outcome(statement, row)

    def cas_settled(
        self,
        statement: Statement,
        settle: Statement,
        applied: Applied,
        **binds: Any,
    ) -> Outcome:
        """Run a conditional write; where its reply is lost, look.

        The one place that knows how an unknown outcome is found out.  What a
        node that hangs was sent is sent to another one, if it was not done.

        :param settle: a serial read of the row; its markers are among those
            of the write.
        :param applied: is given the row as it is stored, without codecs.
        :raises OutcomeUnknown: if that cannot tell either.
        """
        return self._cas_settled(
            lambda: self.cas(statement, **binds),
            settle,
            applied,
            [binds],
            statement.resent,
        )

    def cas_batch_settled(
        self,
        *steps: Step,
        settle: Statement,
        applied: Applied,
        rows: Sequence[Mapping[str, Any]],
    ) -> Outcome:
        """Run conditional writes of one partition, as :meth:`cas_settled`.

        :param rows: where to look, one after the other until one tells.
        """
        return self._cas_settled(
            lambda: self.cas_batch(*steps),
            settle,
            applied,
            rows,
            all(step.resent for step, _ in steps),
        )

    def _cas_settled(
        self,
        write: Callable[[], Outcome],
        settle: Statement,
        applied: Applied,
        rows: Sequence[Mapping[str, Any]],
        resent: bool,
    ) -> Outcome:
        def found() -> Outcome | None:
            said = (self._settled(settle, binds, applied) for binds in rows)
            return next((each for each in said if each is not None), None)

        return settled(write, found, resent)

    def _settled(
        self, settle: Statement, binds: Mapping[str, Any], applied: Applied
    ) -> Outcome | None:
        key = {name: binds[name] for name in settle.binds}
        with self._translated(settle):
            row = next(
                iter(self._start(settle, key, always=True).result()), None
            )
        said = applied(row)
        if said is None:
            return None
        return Outcome(said, {} if said or row is None else row)

    def run_each(self, *steps: Step) -> None:
        """Run plain writes side by side; all of them are waited for."""
        self.run_each_async(steps).result()

    def run_all(self, *steps: Step) -> None:
        """Run plain writes of one class in one request, each by itself.

        As an unlogged batch.  A logged one needs the answers of two other
        nodes of the datacenter before it begins: one that hangs, of three, is
        enough to make it fail.  Where one write fails, others may have been
        done.

        :raises DatacenterUnavailable: in the strict mode of revocations, if
            they are durable here and not yet in another datacenter; to who
            answers the request, where that is known.
        """
        statement = cql.of_one_class(steps)
        cql.check_plain(statement)
        here = self.sessions.get().policy.fallback(statement.operation)
        if here is not None:
            return self._write_strictly(statement, steps, here)
        with self._translated(statement):
            self._start_batch(steps).result()

    def _write_strictly(
        self,
        statement: Statement,
        steps: tuple[Step, ...],
        here: consistency.Level,
    ) -> None:
        """Write in this datacenter and in all others, at once.

        Once it is durable here nothing may break off what follows: the others
        are waited for at the end of the request.
        """
        connection = self.sessions.get()
        wait = self.conf.cassandra.revocation_wait
        try:
            with self._translated(statement, note=False):
                everywhere = self._start_batch(steps, None, wait)
                self._start_batch(steps, here).result()
        except errors.StoreUnavailable as failure:
            self._outage.began(statement.operation.value, failure.reason)
            raise
        awaited.at_last(
            Future(lambda: self._confirm(connection, statement, everywhere))
        )

    def _confirm(
        self,
        connection: Connection,
        statement: Statement,
        sent: Request,
    ) -> None:
        """Wait for what was sent to all datacenters, and is durable here."""
        kind = statement.operation.value
        try:
            with self._translated(statement, note=False):
                sent.result()
        except errors.StoreUnavailable as failure:
            datacenter = errors.absent_datacenter(failure.__cause__)
            # A time-out does not say which it was.
            others = connection.replication.keys() - {connection.local_dc}
            reason = (
                'The change is durable in this region (datacenter), but'
                f' datacenter {datacenter or " or ".join(sorted(others))}'
                ' could not be told.'
            )
            metrics.count(metrics.UNCONFIRMED)
            self._outage.began(kind, reason)
            if self.conf.cassandra.fail_unconfirmed_revocations:
                raise errors.DatacenterUnavailable(reason) from failure
        else:
            self._outage.ended(kind)


def _outcome(statement: Statement, row: dict[str, Any]) -> Outcome:
    applied = row.pop('[applied]')
    watch.written(statement, applied)
    return Outcome(applied, row)
