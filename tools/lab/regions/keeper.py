# SPDX-License-Identifier: Apache-2.0
"""The process that keeps the bed of a checkout, and obeys ``tools/regions``.

It is told what to do through a socket in the bed's folder: a line of JSON with
``command`` and its arguments, answered with a line that has ``result`` or
``error``.  Each connection has a thread: a region can be cut off while
another one starts.  Ended by SIGTERM, it stops all; ended by SIGKILL, the
watchers over its processes do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lab import LabError, ports, processes
from lab.regions.bed import Bed
from lab.regions.calls import SOCKET, bound, prefix

#: Marks what a command of the bed starts for a moment.
_COMMANDS = 'commands'


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, bed: Bed, listening: socket.socket) -> None:
        self.bed = bed
        super().__init__('', _Call, bind_and_activate=False)
        self.socket.close()
        self.socket = listening


class _Call(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if not line:
            return  # who only wants to know which process we are
        call = json.loads(line)
        bed = cast(_Server, self.server).bed
        descriptors = []
        try:
            if call['command'] == 'exec':
                region = bed.region(call['region'])
                descriptors = [region.namespace.descriptor]
                result: Any = dict(region.environment) | {
                    processes.MARK: str(bed.directory / 'exec')
                }
            else:
                result = obey(bed, call)
        except (LabError, OSError) as error:
            answer = {'error': str(error)}
        else:
            answer = {'result': result}
        text = json.dumps(answer).encode() + b'\n'
        socket.send_fds(self.connection, [text], descriptors)


def obey(bed: Bed, call: dict[str, Any]) -> Any:
    """Do what a call says and return its result.

    :raises LabError: it cannot be done.
    """
    name, number = call['command'], call.get('region')
    match name:
        case 'state':
            return {'password': bed.password, **bed.state()}
        case 'cut':
            bed.cut(call['region'])
        case 'heal':
            bed.heal(number)
        case 'slow':
            bed.slow(call['rtt_ms'], number)
        case 'lossy':
            bed.lossy(call['percent'])
        case 'clock':
            bed.region(call['region']).clock = call['seconds']
        case 'start':
            bed.restart(call['region'], call.get('part'))
        case 'pause' | 'resume' | 'kill':
            act = getattr(bed.region(call['region']), name)
            act(call.get('part'))
        case _:
            raise LabError(f'{name!r} is no command')
    return None


def main(arguments: Sequence[str]) -> int:
    """Keep a bed.

    :param arguments: options of ``Bed.start`` as JSON.

    Each line on standard output is JSON: ``progress``, then ``up`` with the
    folder, or ``error``.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ctrl-C is the caller's, who then sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(**news: Any) -> None:
        print(json.dumps(news), flush=True)

    (options,) = arguments
    directory = Path(
        tempfile.mkdtemp(prefix=prefix(), dir=ports.state_directory())
    )
    # Its end is that of what it starts without a group of its own, too.
    os.environ[processes.MARK] = str(directory / _COMMANDS)
    try:
        # Now: who wants us to end learns our number from it.  Calls wait.
        listening = bound(directory / SOCKET)
        listening.listen()
        with (
            Bed.start(
                **json.loads(options),
                directory=directory,
                progress=lambda text: tell(progress=text),
            ) as bed,
            _Server(bed, listening) as server,
        ):
            tell(up=str(directory))
            _let_go_of_terminal(directory / 'keeper.log')
            server.serve_forever()
    except (LabError, OSError) as error:
        # If nobody listens any more: all is stopped already.
        with contextlib.suppress(OSError):
            tell(error=str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _let_go_of_terminal(log: Path) -> None:
    with log.open('ab') as file:
        for descriptor in 1, 2:
            os.dup2(file.fileno(), descriptor)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
