# SPDX-License-Identifier: Apache-2.0
"""The forwarders between nodes."""

import socket
import threading

import pytest
from lab import ports
from lab.links import Links
from lab.waiting import until

#: Seconds in which nothing comes, while nothing is passed on.
SHORT = 0.2


@pytest.fixture
def server():
    """A server, and the address of a forwarder before it."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        port = listening.getsockname()[1]
        if not ports.is_free('127.0.0.2', port):
            pytest.skip('no two addresses with this port')
        links = Links({'127.0.0.2': '127.0.0.1'}, port)
        try:
            yield listening, links, ('127.0.0.2', port)
        finally:
            links.close()


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
                until(lambda: not links.empty, 'what is held')
                there.settimeout(SHORT)
                with pytest.raises(TimeoutError):
                    there.recv(1)
                there.settimeout(None)
            left = len(many)
            while left:
                left -= len(there.recv(left))
            until(lambda: links.empty, 'all is passed on')


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
