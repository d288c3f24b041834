# SPDX-License-Identifier: Apache-2.0
"""Notice that a process answers two requests at once.

Keystone 30 keeps the validated token of a request on its middleware object,
which all threads of a process share: with several threads one user's request
can see the roles of another one's.  Nothing here can mend that, but whoever
runs such a server must hear of it.
"""

from __future__ import annotations

import threading

from oslo_log import log

LOG = log.getLogger(__name__)

_WARNING = (
    'Keystone 30 is not safe with several threads in a process: two requests'
    ' were answered at once, so one user can be given the roles of another.'
    ' Set threads = 1 (gunicorn, uWSGI) or threads=1 (WSGIDaemonProcess) and'
    ' use more processes.'
)


class Turns:
    """Whose turn it is to use the store.

    A context manager.  It takes no lock and may miss two that meet; those
    that go on doing so are soon noticed.
    """

    def __init__(self) -> None:
        self._thread: int | None = None
        self._warned = False

    def __enter__(self) -> None:
        thread = threading.get_ident()
        other, self._thread = self._thread, thread
        if other not in (None, thread) and not self._warned:
            self._warned = True
            LOG.warning(_WARNING)

    def __exit__(self, *_: object) -> None:
        self._thread = None
