# SPDX-License-Identifier: Apache-2.0
"""Faults at a chosen statement of a store.

A fault is an interceptor of one store for the time of a ``with`` block.  Its
target is a ``Statement`` object, not a text; and a fault that never fired
fails the test, so that it cannot rot into a test of nothing::

    with faults.lose_reply(store, trust.CONSUME):
        driver.consume_use(trust_id)
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cassandra

from keystone_cassandra_token.db.cql import Statement
from keystone_cassandra_token.db.request import Interceptor, Send
from keystone_cassandra_token.db.store import Store

#: Seconds after which a held statement gives up: a broken test must end.
PATIENCE = 60


class Crashed(BaseException):
    """The process died here: no clean-up of it reaches Cassandra either."""


class LostReply:
    """A request that was answered, and whose answer got lost."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def result(self) -> Any:
        self._future.result()  # Cassandra has done it
        raise cassandra.OperationTimedOut()


@contextlib.contextmanager
def intercepted(store: Store, action: Interceptor) -> Iterator[None]:
    """Let ``action`` stand between a store and Cassandra."""
    before = vars(store).get('interceptors')
    store.interceptors = (*store.interceptors, action)
    try:
        yield
    finally:
        if before is None:
            del store.interceptors  # the class has some, too
        else:
            store.interceptors = before


class Fault:
    """What happened at a target.

    :ivar fired: how often the target was met and acted on.
    """

    def __init__(self, target: Statement, times: int) -> None:
        self.target = target
        self._left = times
        self._lock = threading.Lock()
        self.fired = 0

    def meets(self, statements: tuple[Statement, ...]) -> bool:
        with self._lock:
            if self.target not in statements or not self._left:
                return False
            self._left -= 1
            self.fired += 1
            return True

    def check(self) -> None:
        assert self.fired, f'the fault never fired at: {self.target}'


@contextlib.contextmanager
def fail(
    store: Store,
    target: Statement,
    error: Exception | None = None,
    times: int = 1,
) -> Iterator[Fault]:
    """Fail before anything is sent.

    :param error: what the driver says; default: no answer in time.
    :param times: for how many sendings; -1 for all.
    """
    fault = Fault(target, times)

    def action(statements: tuple[Statement, ...], send: Send) -> Any:
        if fault.meets(statements):
            raise error or cassandra.OperationTimedOut()
        return send()

    with intercepted(store, action):
        yield fault
    fault.check()


@contextlib.contextmanager
def lose_reply(
    store: Store, target: Statement, times: int = 1
) -> Iterator[Fault]:
    """Let Cassandra do it, and lose the answer."""
    fault = Fault(target, times)

    def action(statements: tuple[Statement, ...], send: Send) -> Any:
        future = send()
        return LostReply(future) if fault.meets(statements) else future

    with intercepted(store, action):
        yield fault
    fault.check()


class Held(Fault):
    """A statement that waits before it is sent.

    :ivar reached: set once it is held.
    """

    def __init__(self, target: Statement) -> None:
        super().__init__(target, 1)
        self.reached = threading.Event()
        self._go = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self._go.wait(PATIENCE), 'held and never released'

    def release(self) -> None:
        self._go.set()


@contextlib.contextmanager
def hold(store: Store, target: Statement) -> Iterator[Held]:
    """Hold the next sending of a statement until ``release()``."""
    held = Held(target)

    def action(statements: tuple[Statement, ...], send: Send) -> Any:
        if held.meets(statements):
            held.wait()
        return send()

    with intercepted(store, action):
        try:
            yield held
        finally:
            held.release()
    held.check()


class Stalled:
    """A call that waits at a statement.

    :ivar said: what it returned, or the exception that it raised.
    """

    said: Any = None

    def __init__(self, held: Held, call: Callable[[], object]) -> None:
        self._held = held
        self._call = call
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.said = self._call()
        except Exception as error:
            self.said = error

    def start(self) -> None:
        """Call, and return once it waits."""
        self._thread.start()
        assert self._held.reached.wait(PATIENCE), repr(self.said)

    def finish(self) -> None:
        """Let it come to its end; idempotent."""
        self._held.release()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), 'it did not come to its end'


@contextlib.contextmanager
def stalled(
    store: Store, target: Statement, call: Callable[[], object]
) -> Iterator[Stalled]:
    """Call in a thread that waits at a statement until the block is done.

    Or until ``finish()``, which the end of the block calls.
    """
    with hold(store, target) as held:
        late = Stalled(held, call)
        try:
            late.start()
            yield late
        finally:
            late.finish()


class Crash:
    """A process that dies after a number of requests.

    :ivar sent: the requests that it has sent, as tuples of statements.
    """

    def __init__(self, after: int) -> None:
        self._after = after
        self.sent: list[tuple[Statement, ...]] = []

    @property
    def fired(self) -> bool:
        return len(self.sent) > self._after

    def act(self, statements: tuple[Statement, ...], send: Send) -> Any:
        if len(self.sent) >= self._after:
            # Once dead it stays dead: no undoing is sent either.
            self.sent.append(statements)
            raise Crashed
        self.sent.append(statements)
        return Done(send().result())


class Done:
    """The result of a request that was waited for."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def result(self) -> Any:
        return self._result


@contextlib.contextmanager
def crash(store: Store, after: int) -> Iterator[Crash]:
    """Die after ``after`` requests were sent and done.

    The block is left without an exception, whether it died or not.
    """
    point = Crash(after)
    with intercepted(store, point.act), contextlib.suppress(Crashed):
        yield point


def each_crash(
    store: Store, prepare: Callable[[], Any], run: Callable[[Any], object]
) -> Iterator[tuple[int, Any]]:
    """Crash a method after each of its requests, one life after the other.

    :param prepare: makes what a run needs, anew for each.
    :param run: the method, given what ``prepare`` returned.
    :returns: yields the number of requests done and what was prepared; last
        with the method having come to its end.
    """
    after = 0
    while True:
        prepared = prepare()
        with crash(store, after) as point:
            run(prepared)
        yield after, prepared
        if not point.fired:
            assert after > 1, 'not a method of several requests'
            return
        after += 1


@contextlib.contextmanager
def counted(store: Store) -> Iterator[list[tuple[Statement, ...]]]:
    """Note all requests of a store."""
    sent: list[tuple[Statement, ...]] = []

    def action(statements: tuple[Statement, ...], send: Send) -> Any:
        sent.append(statements)
        return send()

    with intercepted(store, action):
        yield sent


@contextlib.contextmanager
def clock_off_by(store: Store, seconds: int) -> Iterator[None]:
    """Give what a store writes the timestamps of another clock."""
    cluster = store.sessions.get().cluster
    generate = cluster.timestamp_generator
    cluster.timestamp_generator = lambda: generate() + seconds * 10**6
    try:
        yield
    finally:
        cluster.timestamp_generator = generate
