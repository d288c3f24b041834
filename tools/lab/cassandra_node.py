# SPDX-License-Identifier: Apache-2.0
"""One Cassandra node: its files, and start, stop, kill, pause, nodetool."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import LabError, class_archive, ports, processes
from lab.cassandra_install import Java, find_jars, find_java
from lab.command import output
from lab.processes import Group
from lab.waiting import PATIENCE, until

CQL_PORT = 9042
STORAGE_PORT = 7000
JMX_PORT = 7199
#: Each table takes its share: the tests have some hundred at once.
HEAP_MB = 900

#: Names the datacenter of a node.
RACKDC = 'cassandra-rackdc.properties'
SEED_PROVIDER = 'org.apache.cassandra.locator.SimpleSeedProvider'

# An OPTIONS frame of the native protocol, version 4; any node answers it,
# before authentication, with a SUPPORTED frame.
OPTIONS_FRAME = bytes((0x04, 0, 0, 0, 0x05, 0, 0, 0, 0))
SUPPORTED = 0x06

# What Cassandra ships in jvm11-server.options and jvm17-server.options:
# packages of Java that it looks into.  What is opened is exported, too, and
# of one that is not there Java only warns.
OPENED = """\
java.base/java.io java.base/java.nio java.base/sun.nio.ch
java.base/java.lang java.base/java.lang.module
java.base/java.lang.ref java.base/java.lang.reflect
java.base/java.util java.base/java.util.concurrent
java.base/java.util.concurrent.atomic
java.base/jdk.internal.loader java.base/jdk.internal.math
java.base/jdk.internal.misc java.base/jdk.internal.module
java.base/jdk.internal.ref java.base/jdk.internal.reflect
java.base/jdk.internal.util java.base/jdk.internal.util.jar
java.management.rmi/com.sun.jmx.remote.internal.rmi
java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
java.rmi/sun.rmi.transport.tcp
jdk.management/com.sun.management.internal
jdk.unsupported/sun.misc
"""
MODULE_OPTIONS = [
    f'--add-opens={package}=ALL-UNNAMED' for package in OPENED.split()
]

LOGBACK = """\
<configuration>
  <appender name="{target}" class="ch.qos.logback.core.ConsoleAppender">
    <target>{target}</target>
    <encoder>
      <pattern>%date %-5level [%thread] %logger{{0}}: %msg%n</pattern>
    </encoder>
  </appender>
  <root level="{level}">
    <appender-ref ref="{target}" />
  </root>
</configuration>
"""


@dataclass
class Shape:
    """What a cluster is like; kept in its folder."""

    datacenters: list[str]  # of each node
    prefix: str = ''  # of the addresses
    shift: int = 0  # added to the ports but the CQL port
    port: int = CQL_PORT
    commitlog_sync: str = 'periodic'  # or batch
    heap_mb: int = HEAP_MB
    #: Further settings of cassandra.yaml; None takes one out.
    yaml: Mapping[str, Any] = field(default_factory=dict)
    #: Of the Java machine, such as system properties of Cassandra.
    java_options: Sequence[str] = ()
    #: Whether Cassandra measures objects by its agent, or computes their size.
    agent: bool = True
    log_level: str = 'INFO'
    #: Added to the last part of a node's address, it is that by which the
    #: others know it.
    linked: int = 0


@dataclass(frozen=True)
class Place:
    """Where a node is that is not on loopback: a network of its own.

    :ivar inside: enters that network for the current thread.
    """

    address: str
    inside: Callable[[], AbstractContextManager[object]]


class Node:
    """A node of a cluster of the lab.

    :param place: where it is, if it is not on loopback.
    :ivar number: from 1.
    :ivar known_as: the address by which other nodes reach it.
    :ivar port: of CQL.
    :ivar peers: all nodes of the cluster.
    :ivar group: what the node's process belongs to.
    """

    def __init__(
        self,
        number: int,
        shape: Shape,
        directory: str,
        place: Place | None = None,
    ) -> None:
        self.number = number
        self.address = f'{shape.prefix}.{number}'
        self.known_as = f'{shape.prefix}.{number + shape.linked}'
        self._inside: Callable[[], AbstractContextManager[object]]
        self._inside = nullcontext
        if place:
            self.address = self.known_as = place.address
            self._inside = place.inside
        self.port = shape.port
        self.datacenter = shape.datacenters[number - 1]
        self.directory = directory
        self.log = os.path.join(directory, 'system.log')
        self.group: Group | None = None
        self.peers: Sequence[Node] = ()
        self._shape = shape
        self._storage_port = STORAGE_PORT + shape.shift
        self._jmx_port = JMX_PORT + shape.shift
        self._child: subprocess.Popen[bytes] | None = None
        self._begin = 0  # of the log of the last start

    def __repr__(self) -> str:
        return f'<Node {self.number} {self.address} {self.datacenter}>'

    @property
    def process(self) -> int | None:
        """The number of the node's process, if it runs."""
        if self._child:
            return self._child.pid if self._child.poll() is None else None
        return next(iter(processes.marked(self.directory)), None)

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Start the node on the data that it has, and wait for it.

        It answers CQL then, and the other running nodes see it.

        :raises LabError: it did not start; the text ends with its log.
        """
        if self.running:
            return
        with self._inside():
            self._check_ports()
        new = not os.path.isdir(os.path.join(self.directory, 'data'))
        marks = [
            (peer, peer._log_size())
            for peer in self.peers
            if peer is not self and peer.running
        ]
        begin = self._begin = self._log_size()
        self._launch()
        self._until_logged(self, begin, 'Startup complete')
        passwords = 'Password' in str(self._shape.yaml.get('authenticator'))
        if new and passwords and self.number == 1:
            # Nobody can log in before.
            self._until_logged(self, begin, 'Created default superuser role')
        self._until(self.answers, 'an answer to CQL')
        up = f'{self.known_as}:{self._storage_port} is now UP'
        for peer, mark in marks:
            self._until_logged(peer, mark, up)
            # Up is not yet a member that is given data, and a keyspace that
            # is made before would leave its datacenter out.
            if new:
                self._until(
                    lambda peer=peer: (
                        f'UN  {self.known_as} ' in peer.nodetool('status')
                    ),
                    f'membership as {peer!r} sees it',
                )

    def _check_ports(self) -> None:
        for port in (self.port, self._storage_port, self._jmx_port):
            if not ports.is_free(self.address, port):
                raise LabError(
                    f'cannot start a Cassandra node: another program listens'
                    f' on port {port} of {self.address}'
                )

    def _launch(self) -> None:
        if self.group is None:
            raise LabError(
                f'{self!r} belongs to a cluster that was started elsewhere:'
                ' start it by start_stopped of the cluster'
            )
        os.makedirs(os.path.join(self.directory, 'tmp'), exist_ok=True)
        with open(self.log, 'ab') as log, self._inside():
            self._child = self.group.spawn(
                self._command(find_java(), find_jars()),
                mark=self.directory,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what a start brings, as long as the node lives."""

        def come() -> bool:
            if self._child and self._child.poll() is not None:
                raise LabError(f'exit code {self._child.returncode}')
            return condition()

        try:
            until(come, what, PATIENCE)
        except LabError as error:
            # The folder of a cluster that did not start is removed.
            kept = os.path.join(ports.state_directory(), 'failed-start.log')
            shutil.copyfile(self.log, kept)
            # Some lines hold the whole class path.
            tail = [line[:300] for line in self._logged(0).splitlines()[-30:]]
            raise LabError(
                f'the Cassandra node on {self.address} did not start:'
                f' {error}. Its whole log is in {kept}; the end of it:\n'
                + '\n'.join(tail)
            ) from error

    def _until_logged(self, node: 'Node', position: int, text: str) -> None:
        self._until(
            lambda: text in node._logged(position), f'{text!r} of {node!r}'
        )

    def _logged(self, position: int) -> str:
        """What the node has written to its log after a position in bytes."""
        with open(self.log, 'rb') as log:
            log.seek(position)
            return log.read().decode(errors='replace')

    def _log_size(self) -> int:
        return os.path.getsize(self.log) if os.path.exists(self.log) else 0

    def stop(self) -> None:
        """Stop the node in order; kill it if that takes a minute."""
        # It may have been paused.
        processes.send(self.directory, signal.SIGTERM, signal.SIGCONT)
        processes.wait_gone(self.directory, 60)
        self.kill()

    def kill(self) -> None:
        """End the node at once, as a crash does."""
        processes.kill_marked(self.directory)
        if self._child:
            self._child.kill()
            self._child.wait()
            self._child = None

    def pause(self) -> None:
        """Freeze the node: its connections stay open and nothing answers."""
        for pid in self._signal(signal.SIGSTOP):
            # On a busy machine a thread can answer once more before it stops.
            until(
                lambda pid=pid: processes.stopped(pid), f'a stop of {self!r}'
            )

    def resume(self) -> None:
        """Let a frozen node go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> list[int]:
        found = processes.send(self.directory, number)
        if not found:
            raise LabError(f'{self!r} does not run')
        return found

    def answers(self) -> bool:
        """Whether the CQL port answers now."""
        tls = self._shape.yaml.get('client_encryption_options') or {}
        try:
            with (
                self._inside(),
                socket.create_connection(
                    (self.address, self.port), timeout=2
                ) as connection,
            ):
                if tls.get('enabled') and not tls.get('optional'):
                    return True
                connection.sendall(OPTIONS_FRAME)
                header = connection.recv(9)
                return len(header) > 4 and header[4] == SUPPORTED
        except OSError:
            return False

    def sees_up(self, peer: 'Node') -> bool:
        """Whether this node takes another one for up, by its log.

        By what it has written since this process last started it.
        """
        text = self._logged(self._begin)
        about = f'{peer.known_as}:{peer._storage_port} is now '
        return text.rfind(f'{about}UP') > text.rfind(f'{about}DOWN')

    def nodetool(self, *arguments: str) -> str:
        """Run nodetool, as ``nodetool('flush', 'keystone', 'token')``.

        Returns its standard output.

        :raises LabError: it failed; the text says how.
        """
        command = [
            find_java().path,
            '-Xmx64M',
            '-XX:TieredStopAtLevel=1',
            *MODULE_OPTIONS,
            f'-Duser.home={self.directory}',
            f'-Djava.io.tmpdir={self.directory}/tmp',
            f'-Dlogback.configurationFile={self._uri("logback-tool.xml")}',
            '-Dcom.sun.jndi.rmiURLParsing=legacy',
            *class_archive.options(find_java(), find_jars()),
            *('-cp', class_archive.class_path(find_jars())),
            'org.apache.cassandra.tools.NodeTool',
            *('-h', self.address, '-p', str(self._jmx_port)),
            *arguments,
        ]
        name = f'nodetool {" ".join(arguments)}'
        with self._inside():
            return output(name, command, timeout=120)

    @property
    def _conf(self) -> Path:
        return Path(self.directory, 'conf')

    def _uri(self, name: str) -> str:
        # A blank in the path of the folder must be escaped.
        return (self._conf / name).as_uri()

    def configure(self) -> None:
        """Write the folder that the node has first on its class path."""
        # The first node is the seed of all, itself too.
        seed = self.peers[0].known_as if self.peers else self.known_as
        files = {
            'cassandra.yaml': cassandra_yaml(
                self._shape, self.address, seed, self.known_as
            ),
            RACKDC: (f'dc={self.datacenter}\nrack=rack1\n'),
            'logback.xml': LOGBACK.format(
                level=self._shape.log_level, target='System.out'
            ),
            'logback-tool.xml': LOGBACK.format(
                level='ERROR', target='System.err'
            ),
        }
        self._conf.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = self._conf / name
            # It may hold passwords of key stores.
            path.touch(0o600)
            path.write_text(text)

    def _command(self, java: Java, jars: str) -> list[str]:
        """The command that runs the node in the foreground."""
        heap_mb = self._shape.heap_mb
        first = self.number == 1
        (jamm,) = Path(jars).glob('jamm-*')
        command = [
            java.path,
            f'-Xms{heap_mb}M',
            f'-Xmx{heap_mb}M',
            '-Xss256k',
            # G1 is made for heaps that are much larger than this.
            '-XX:+UseSerialGC' if heap_mb < 1024 else '-XX:+UseG1GC',
            f'-XX:MaxDirectMemorySize={heap_mb}M',
            '-XX:+ExitOnOutOfMemoryError',
            '-XX:+PerfDisableSharedMem',
            f'-XX:ErrorFile={self.directory}/java-error.log',
            *MODULE_OPTIONS,
            f'-Djava.io.tmpdir={self.directory}/tmp',
            f'-Djna.tmpdir={self.directory}/tmp',
            f'-Duser.home={self.directory}',
            '-Djdk.attach.allowAttachSelf=true',
            '-Dio.netty.tryReflectionSetAccessible=true',
            '-Dio.netty.allocator.useCacheForAllThreads=true',
            '-Dio.netty.allocator.maxOrder=11',
            f'-Dcassandra.config={self._uri("cassandra.yaml")}',
            f'-D{RACKDC}={self._uri(RACKDC)}',
            f'-Dcassandra.storagedir={self.directory}',
            f'-Dlogback.configurationFile={self._uri("logback.xml")}',
            '-Dcassandra-foreground=yes',
            # Cassandra's own JMX server would listen on 127.0.0.1 alone,
            # where nodes would meet each other.
            f'-Dcom.sun.management.jmxremote.port={self._jmx_port}',
            f'-Dcom.sun.management.jmxremote.rmi.port={self._jmx_port}',
            f'-Dcom.sun.management.jmxremote.host={self.address}',
            f'-Djava.rmi.server.hostname={self.address}',
            '-Dcom.sun.management.jmxremote.authenticate=false',
            '-Dcom.sun.management.jmxremote.ssl=false',
            # A quick start: nobody else is there to wait for.  A node that
            # joins gives up if the first has not answered meanwhile, which
            # takes more than a second on a busy machine.
            f'-Dcassandra.ring_delay_ms={1000 if first else 5000}',
            '-Dcassandra.skip_wait_for_gossip_to_settle=0',
            '-Dcassandra.superuser_setup_delay_ms=0',
        ]
        if java.version >= 17:
            command.append('-Djava.security.manager=allow')
        if self._shape.agent:
            command.append(f'-javaagent:{jamm}')
        if not first:
            command.append('-Dcassandra.consistent.rangemovement=false')
        return [
            *command,
            *class_archive.options(java, jars),
            *self._shape.java_options,
            *('-cp', class_archive.class_path(jars)),
            'org.apache.cassandra.service.CassandraDaemon',
        ]


def cassandra_yaml(
    shape: Shape, address: str, seed: str, known_as: str
) -> str:
    """The text of a node's cassandra.yaml.

    Sizes are for a small heap; time-outs and guard rails are Cassandra's own.
    """
    storage_port = STORAGE_PORT + shape.shift
    settings: dict[str, Any] = {
        'cluster_name': 'lab',
        'num_tokens': 4,
        'partitioner': 'org.apache.cassandra.dht.Murmur3Partitioner',
        'seed_provider': [
            {
                'class_name': SEED_PROVIDER,
                'parameters': [{'seeds': f'{seed}:{storage_port}'}],
            }
        ],
        'listen_address': address,
        'broadcast_address': known_as,
        'rpc_address': address,
        'native_transport_port': shape.port,
        'storage_port': storage_port,
        'ssl_storage_port': storage_port + 1,
        'endpoint_snitch': 'GossipingPropertyFileSnitch',
        'auto_snapshot': False,
        'commitlog_sync': shape.commitlog_sync,
        'commitlog_segment_size': '8MiB',
        'commitlog_total_space': '256MiB',
        'memtable_heap_space': '64MiB',
        'memtable_offheap_space': '64MiB',
        'key_cache_size': '8MiB',
        'counter_cache_size': '0MiB',
        'file_cache_size': '32MiB',
        'prepared_statements_cache_size': '4MiB',
        'concurrent_compactors': 1,
        'concurrent_reads': 16,
        'concurrent_writes': 16,
        'concurrent_counter_writes': 4,
    }
    if shape.commitlog_sync == 'periodic':
        settings['commitlog_sync_period'] = '10s'
    elif shape.commitlog_sync != 'batch':
        raise ValueError(
            'commitlog_sync is periodic or batch, not'
            f' {shape.commitlog_sync!r}'
        )
    # JSON is YAML, and needs no library.
    return ''.join(
        f'{name}: {json.dumps(value)}\n'
        for name, value in {**settings, **shape.yaml}.items()
        if value is not None
    )
