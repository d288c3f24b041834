# SPDX-License-Identifier: Apache-2.0
"""Network namespaces without names, each with a TUN device.

A namespace lives as long as a process is in it or a descriptor of it is open,
a device as long as its descriptor is: nothing is left of what was killed.
With Python's own library alone, and without the command ``ip``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from lab import LabError
from lab.regions.router import MTU

#: Of each namespace; it leads to the router.
DEVICE = 'wan'
TUN = '/dev/net/tun'

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8916, 0x891C, 0x8922
_IFF_UP = 1
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
#: Of all regions: what is not here goes to the router.
_NETMASK = '255.255.0.0'

_libc = ctypes.CDLL(None, use_errno=True)


class NotAllowed(LabError):
    """This account or this machine cannot make namespaces or devices."""


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def enter(descriptor: int) -> None:
    """Put the current thread into a namespace."""
    _check(_libc.setns(descriptor, _CLONE_NEWNET))


def _current() -> int:
    """Return a descriptor of the current thread's namespace."""
    return os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """Put the current thread into a namespace until the block ends.

    Sockets that it opens, and threads and processes that it starts, are
    there for ever.  Other threads stay where they are.
    """
    before = _current()
    try:
        enter(descriptor)
        try:
            yield
        finally:
            enter(before)
    finally:
        os.close(before)


class Namespace:
    """A network with addresses on its loopback and a way out of it.

    :param router_address: of the device; in one network with the others'.
    :param addresses: of loopback, besides 127.0.0.1.
    :raises NotAllowed: then.

    :ivar descriptor: of the namespace.
    :ivar device: descriptor of the TUN device, which passes on what is sent
        to an address that is not here.
    """

    def __init__(self, router_address: str, addresses: Sequence[str]) -> None:
        self.descriptor = self.device = -1
        # A thread that has made a namespace is in it, and ends with that.
        failed: list[BaseException] = []

        def make() -> None:
            try:
                self._make(router_address, addresses)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if failed:
            self.close()
            raise failed[0]

    def _make(self, router_address: str, addresses: Sequence[str]) -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            self.descriptor = _current()
            self.device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
            request = struct.pack('16sH22x', DEVICE.encode(), _IFF_TUN_NO_PI)
            fcntl.ioctl(self.device, _TUNSETIFF, request)
        except OSError as error:
            if error.errno not in (
                *(errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV),
                *(errno.ENOSYS, errno.EINVAL, errno.ENOSPC, errno.ENXIO),
            ):
                raise
            raise NotAllowed(
                'network namespaces and TUN devices are needed: be root (or'
                ' have CAP_SYS_ADMIN and CAP_NET_ADMIN) on Linux with'
                f' {TUN} ({error.strerror})'
            ) from error
        # IPv6 would send packets of its own to the router.
        for each in Path('/proc/sys/net/ipv6/conf').glob('*/disable_ipv6'):
            each.write_text('1')
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _bring_up(control, 'lo')
            for number, address in enumerate(addresses):
                _set_address(control, f'lo:{number}', address, _HOST)
            _set_address(control, DEVICE, router_address, _NETMASK)
            request = struct.pack('16si20x', DEVICE.encode(), MTU)
            fcntl.ioctl(control, _SIOCSIFMTU, request)
            _bring_up(control, DEVICE)

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """As :func:`entered`, for this one."""
        return entered(self.descriptor)

    def close(self) -> None:
        """Let go of the namespace and its device; idempotent."""
        for descriptor in self.descriptor, self.device:
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.device = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HOST = '255.255.255.255'


def _set_address(
    control: socket.socket, device: str, address: str, netmask: str
) -> None:
    for command, value in (
        (_SIOCSIFADDR, address),
        (_SIOCSIFNETMASK, netmask),
    ):
        request = struct.pack(
            '16sHH4s16x',
            device.encode(),
            socket.AF_INET,
            0,
            socket.inet_aton(value),
        )
        fcntl.ioctl(control, command, request)


def _bring_up(control: socket.socket, device: str) -> None:
    request = struct.pack('16s24x', device.encode())
    found = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
    (flags,) = struct.unpack_from('H', found, 16)
    request = struct.pack('16sH22x', device.encode(), flags | _IFF_UP)
    fcntl.ioctl(control, _SIOCSIFFLAGS, request)
