# SPDX-License-Identifier: Apache-2.0
"""The forwarders between nodes."""

import contextlib
import socket
import threading

import pytest
from lab import ports
from lab.links import Links
from lab.waiting import until


@pytest.fixture
def server():
    """A server, and the address of a forwarder before it."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(on_free_addresses('127.0.0.2'))
        port = listening.getsockname()[1]
        links = Links({'127.0.0.2': '127.0.0.1'}, port)
        stack.callback(links.close)
        yield listening, links, ('127.0.0.2', port)


def on_free_addresses(*addresses):
    """Return a server whose port is free on other addresses, too."""
    while True:
        listening = socket.create_server(('127.0.0.1', 0))
        port = listening.getsockname()[1]
        if all(ports.is_free(each, port) for each in addresses):
            return listening
        listening.close()


def test_passes_on_both_ways(server):
    listening, _, address = server
    with socket.create_connection(address) as here:
        there, _ = listening.accept()
        with there:
            here.sendall(b'there')
            assert there.recv(9) == b'there'
            there.sendall(b'here')
            assert here.recv(9) == b'here'
            here.shutdown(socket.SHUT_WR)
            assert there.recv(9) == b''


def test_holds_back_and_lets_go(server):
    listening, links, address = server
    many = b'x' * (1 << 22)  # more than what sockets keep
    with socket.create_connection(address) as here:
        there, _ = listening.accept()
        with there:
            with links.held():
                here.sendall(many)
                until(lambda: links.taken == len(many), 'all of it is held')
                there.setblocking(False)
                with pytest.raises(BlockingIOError):
                    there.recv(1)
                there.setblocking(True)
            left = len(many)
            while left:
                left -= len(there.recv(left))
            until(lambda: not links.taken, 'all is passed on')


def test_holds_back_what_is_sent_to_one():
    first, second = '127.0.0.2', '127.0.0.3'
    with on_free_addresses(first, second) as listening:
        port = listening.getsockname()[1]
        ways = dict.fromkeys((first, second), '127.0.0.1')
        with (
            contextlib.closing(Links(ways, port)) as links,
            links.held(second),
        ):
            for address, is_held in ((first, False), (second, True)):
                with socket.create_connection((address, port)) as here:
                    there, _ = listening.accept()
                    with there:
                        here.sendall(b'there')
                        if is_held:
                            until(lambda: links.taken == 5, 'it is held')
                        else:
                            assert there.recv(9) == b'there'


def test_a_server_that_does_not_run(server):
    listening, _, address = server
    listening.close()
    with socket.create_connection(address) as here:
        assert here.recv(1) == b''


def test_closing_ends_connections_and_the_thread(server):
    listening, links, address = server
    with socket.create_connection(address) as here:
        there, _ = listening.accept()
        with there:
            links.close()
            assert here.recv(1) == b''
            assert there.recv(1) == b''
    links.close()
    assert 'links' not in {each.name for each in threading.enumerate()}
