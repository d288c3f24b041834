# SPDX-License-Identifier: Apache-2.0
"""The files and the command line that a Cassandra node starts from."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.cassandra_install import Java

CQL_PORT = 9042
STORAGE_PORT = 7000
JMX_PORT = 7199

SEED_PROVIDER = 'org.apache.cassandra.locator.SimpleSeedProvider'

# What Cassandra ships in jvm11-server.options and jvm17-server.options:
# packages of Java that it looks into.  What is opened is exported, too, and
# of one that is not there Java only warns.
OPENED = (
    'java.base/java.io',
    'java.base/java.lang',
    'java.base/java.lang.module',
    'java.base/java.lang.ref',
    'java.base/java.lang.reflect',
    'java.base/java.nio',
    'java.base/java.util',
    'java.base/java.util.concurrent',
    'java.base/java.util.concurrent.atomic',
    'java.base/jdk.internal.loader',
    'java.base/jdk.internal.math',
    'java.base/jdk.internal.misc',
    'java.base/jdk.internal.module',
    'java.base/jdk.internal.ref',
    'java.base/jdk.internal.reflect',
    'java.base/jdk.internal.util',
    'java.base/jdk.internal.util.jar',
    'java.base/sun.nio.ch',
    'java.management.rmi/com.sun.jmx.remote.internal.rmi',
    'java.rmi/sun.rmi.registry',
    'java.rmi/sun.rmi.server',
    'java.rmi/sun.rmi.transport.tcp',
    'jdk.management/com.sun.management.internal',
    'jdk.unsupported/sun.misc',
)
MODULE_OPTIONS = tuple(
    f'--add-opens={package}=ALL-UNNAMED' for package in OPENED
)

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


def cassandra_yaml(
    *,
    cluster_name: str,
    address: str,
    seed: str,
    shift: int = 0,
    cql_port: int = CQL_PORT,
    commitlog_sync: str = 'periodic',
    known_as: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """The text of a node's cassandra.yaml.

    Sizes are for a small heap; time-outs and guard rails are Cassandra's own.

    :param shift: added to all ports but the CQL port.
    :param known_as: the address at which other nodes reach it, if that is
        another one.
    :param overrides: settings that replace or add to these, by their name;
        None as a value takes a setting out.
    """
    settings: dict[str, Any] = {
        'cluster_name': cluster_name,
        'num_tokens': 4,
        'partitioner': 'org.apache.cassandra.dht.Murmur3Partitioner',
        'seed_provider': [
            {
                'class_name': SEED_PROVIDER,
                'parameters': [{'seeds': f'{seed}:{STORAGE_PORT + shift}'}],
            }
        ],
        'listen_address': address,
        'rpc_address': address,
        'native_transport_port': cql_port,
        'storage_port': STORAGE_PORT + shift,
        'ssl_storage_port': STORAGE_PORT + 1 + shift,
        'endpoint_snitch': 'GossipingPropertyFileSnitch',
        'auto_snapshot': False,
        'commitlog_sync': commitlog_sync,
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
    if commitlog_sync == 'periodic':
        settings['commitlog_sync_period'] = '10s'
    elif commitlog_sync != 'batch':
        raise ValueError(
            f'commitlog_sync is periodic or batch, not {commitlog_sync!r}'
        )
    if known_as not in (None, address):
        settings['broadcast_address'] = known_as
    settings.update(overrides or {})
    # JSON is YAML, and needs no library.
    lines = [
        f'{name}: {json.dumps(value)}'
        for name, value in settings.items()
        if value is not None
    ]
    return '\n'.join(lines) + '\n'


def write_conf(
    directory: str, *, yaml: str, datacenter: str, log_level: str
) -> None:
    """Write the folder that a node has first on its class path."""
    os.makedirs(directory, exist_ok=True)
    files = {
        'cassandra.yaml': yaml,
        'cassandra-rackdc.properties': f'dc={datacenter}\nrack=rack1\n',
        'logback.xml': LOGBACK.format(level=log_level, target='System.out'),
        'logback-tool.xml': LOGBACK.format(level='ERROR', target='System.err'),
    }
    for name, text in files.items():
        path = os.path.join(directory, name)
        # It may hold passwords of key stores.
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'w') as file:
            file.truncate()
            file.write(text)


def _uri(conf: str, name: str) -> str:
    # A blank in the path of the folder must be escaped.
    return Path(conf, name).as_uri()


def class_path(jars: str, conf: str) -> str:
    # A final * stands for all jars of the folder.
    return os.pathsep.join((conf, os.path.join(jars, '*')))


def node_command(
    *,
    java: Java,
    jars: str,
    directory: str,
    address: str,
    shift: int,
    heap_mb: int,
    first: bool,
    options: Sequence[str] = (),
) -> list[str]:
    """The command that runs a node in the foreground."""
    conf = os.path.join(directory, 'conf')
    jamm = [name for name in os.listdir(jars) if name.startswith('jamm-')]
    jmx = str(JMX_PORT + shift)
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
        f'-XX:ErrorFile={directory}/java-error.log',
        *MODULE_OPTIONS,
        f'-javaagent:{os.path.join(jars, jamm[0])}',
        f'-Djava.io.tmpdir={directory}/tmp',
        f'-Djna.tmpdir={directory}/tmp',
        f'-Duser.home={directory}',
        '-Djdk.attach.allowAttachSelf=true',
        '-Dio.netty.tryReflectionSetAccessible=true',
        '-Dio.netty.allocator.useCacheForAllThreads=true',
        '-Dio.netty.allocator.maxOrder=11',
        f'-Dcassandra.config={_uri(conf, "cassandra.yaml")}',
        f'-Dcassandra.storagedir={directory}',
        f'-Dlogback.configurationFile={_uri(conf, "logback.xml")}',
        '-Dcassandra-foreground=yes',
        # Cassandra's own JMX server would listen on 127.0.0.1 alone, where
        # nodes would meet each other.
        f'-Dcom.sun.management.jmxremote.port={jmx}',
        f'-Dcom.sun.management.jmxremote.rmi.port={jmx}',
        f'-Dcom.sun.management.jmxremote.host={address}',
        f'-Djava.rmi.server.hostname={address}',
        '-Dcom.sun.management.jmxremote.authenticate=false',
        '-Dcom.sun.management.jmxremote.ssl=false',
        # A quick start: nobody else is there to wait for.  A node that joins
        # gives up if the first has not answered meanwhile, which takes more
        # than a second on a busy machine.
        f'-Dcassandra.ring_delay_ms={1000 if first else 5000}',
        '-Dcassandra.skip_wait_for_gossip_to_settle=0',
        '-Dcassandra.superuser_setup_delay_ms=0',
    ]
    if java.version >= 17:
        command.append('-Djava.security.manager=allow')
    if not first:
        command.append('-Dcassandra.consistent.rangemovement=false')
    return [
        *command,
        *options,
        '-cp',
        class_path(jars, conf),
        'org.apache.cassandra.service.CassandraDaemon',
    ]


def nodetool_command(
    *, java: Java, jars: str, directory: str, address: str, shift: int
) -> list[str]:
    """The start of a nodetool command; its own arguments follow."""
    conf = os.path.join(directory, 'conf')
    return [
        java.path,
        '-Xmx64M',
        '-XX:TieredStopAtLevel=1',
        *MODULE_OPTIONS,
        f'-Duser.home={directory}',
        f'-Djava.io.tmpdir={directory}/tmp',
        f'-Dlogback.configurationFile={_uri(conf, "logback-tool.xml")}',
        '-Dcom.sun.jndi.rmiURLParsing=legacy',
        '-cp',
        class_path(jars, conf),
        'org.apache.cassandra.tools.NodeTool',
        '-h',
        address,
        '-p',
        str(JMX_PORT + shift),
    ]
