# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a cluster hear of each other, held back and let go.

Nodes that are known by another address than the one on which they listen
(``broadcast_address``) are reached through whatever listens there: a
forwarder of this process, so that neither root nor a network of its own is
needed.  While it is held it takes what it is sent and passes on nothing; no
connection is lost.  Clients reach the nodes as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

#: Bytes that are read at once.
_PIECE = 1 << 16


class Links:
    """The ways to some nodes, of which each has a forwarder.

    :param ways: where a forwarder listens, and where to it passes things on.
    :param port: of both.
    :raises OSError: it cannot listen.
    """

    def __init__(self, ways: dict[str, str], port: int) -> None:
        self._ways = ways
        self._port = port
        self._loop = asyncio.new_event_loop()
        # By where it listens: set while all is passed on.
        self._open = {address: asyncio.Event() for address in ways}
        for each in self._open.values():
            each.set()
        self._under_way = 0
        self._thread = threading.Thread(
            target=self._loop.run_forever, name='links', daemon=True
        )
        self._thread.start()
        try:
            self._call(self._listen())
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def held(self, *addresses: str) -> Iterator[None]:
        """Pass on nothing until the block ends; then all of it.

        :param addresses: where the forwarders listen that are held: what is
            sent elsewhere is passed on.  All are if none is given.
        """
        held = [self._open[each] for each in addresses or self._open]
        for each in held:
            self._loop.call_soon_threadsafe(each.clear)
        try:
            yield
        finally:
            for each in held:
                self._loop.call_soon_threadsafe(each.set)

    @property
    def taken(self) -> int:
        """The bytes that were taken, and not yet passed on."""
        return self._under_way

    def close(self) -> None:
        """Close all connections; idempotent."""
        if not self._loop.is_closed():
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        for address, to in self._ways.items():

            async def connected(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                to: str = to,
                open_: asyncio.Event = self._open[address],
            ) -> None:
                await self._connected(to, open_, reader, writer)

            await asyncio.start_server(connected, address, self._port)

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(
        self,
        to: str,
        open_: asyncio.Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        with contextlib.closing(writer):
            try:
                there = await asyncio.open_connection(to, self._port)
            except OSError:
                return  # that node does not run
            with contextlib.closing(there[1]):
                await asyncio.gather(
                    self._pass_on(open_, reader, there[1]),
                    self._pass_on(open_, there[0], writer),
                )

    async def _pass_on(
        self,
        open_: asyncio.Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        # Read ahead: whoever sends must not wait, nor see that it is held.
        pieces: asyncio.Queue[bytes] = asyncio.Queue()

        async def take() -> None:
            piece = b' '
            while piece:
                try:
                    piece = await reader.read(_PIECE)
                except OSError:
                    piece = b''
                self._under_way += len(piece)
                pieces.put_nowait(piece)

        async def give() -> None:
            while piece := await pieces.get():
                await open_.wait()
                with contextlib.suppress(OSError):
                    writer.write(piece)
                    await writer.drain()
                self._under_way -= len(piece)
            with contextlib.suppress(OSError):
                writer.write_eof()

        await asyncio.gather(take(), give())
