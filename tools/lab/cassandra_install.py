# SPDX-License-Identifier: Apache-2.0
"""Java, and Cassandra's jars, fetched once for each user."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

from lab import LabError, ports

POM = Path(__file__).resolve().parents[1] / 'cassandra.pom.xml'
SUPPORTED_JAVA = (17, 11)  # of Cassandra 5.0


class Java(NamedTuple):
    path: str
    version: int  # 11, 17, ...


def say(text: str) -> None:
    """Tell the user what goes on; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def java_version(path: str) -> int | None:
    """The feature release of a java program; None if it does not run."""
    try:
        done = subprocess.run(
            [path, '-version'], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Java 8 calls itself 1.8.
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(match.group(1)) if match else None


def find_java() -> Java:
    """The Java to use: JAVA_HOME, then PATH, then Debian's folder.

    :raises LabError: there is none that Cassandra 5.0 runs on.
    """
    found = []
    if home := os.environ.get('JAVA_HOME'):
        found.append(os.path.join(home, 'bin', 'java'))
    if on_path := shutil.which('java'):
        found.append(on_path)
    # A machine with a newer default often has an older one beside it.
    beside = [
        path
        for wanted in SUPPORTED_JAVA
        for path in sorted(glob.glob(f'/usr/lib/jvm/*-{wanted}-*/bin/java'))
    ]
    for path in [*found, *(beside if found else [])]:
        version = java_version(path)
        if version in SUPPORTED_JAVA:
            return Java(path, version)
    others = ' and '.join(
        f'{path} is Java {version}'
        if (version := java_version(path))
        else f'{path} does not run'
        for path in found
    )
    raise LabError(
        'Cassandra 5.0 runs on Java 11 or 17,'
        f' {f"but {others}" if found else "and no java was found"}.\n'
        'On Debian 12:  apt-get install openjdk-17-jre-headless\n'
        'If it is installed elsewhere, let JAVA_HOME name its folder.'
    )


def version() -> str:
    """The version of Cassandra that the lab runs."""
    match = re.search(
        r'<cassandra\.version>([\d.]+)</cassandra\.version>', POM.read_text()
    )
    assert match
    return match.group(1)


def jars_directory() -> str:
    """The folder of Cassandra's jars; if it is there, it is complete."""
    return os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
        'keystone-cassandra',
        f'cassandra-{version()}',
    )


def find_maven() -> str:
    """The program that fetches the jars.

    :raises LabError: it is missing.
    """
    maven = shutil.which('mvn')
    if maven is None:
        raise LabError(
            'Maven (the command mvn) is needed once, to fetch Cassandra.\n'
            'On Debian 12:  apt-get install maven'
        )
    return maven


def find_jars() -> str:
    """The folder with Cassandra's jars, fetched if this is the first use.

    :raises LabError: Maven is missing, or fetching failed.
    """
    jars = jars_directory()
    if os.path.isdir(jars):
        return jars
    cache = os.path.dirname(jars)
    os.makedirs(cache, exist_ok=True)
    with ports.locked(os.path.join(cache, 'fetch.lock')):
        if not os.path.isdir(jars):
            _fetch(cache, jars)
    return jars


def _fetch(cache: str, jars: str) -> None:
    maven = find_maven()
    say(
        f'Fetching Cassandra {version()} with Maven: about 100 files, 70 MB,'
        ' once for each user.'
    )
    for left in glob.glob(os.path.join(cache, 'fetching-*')):
        shutil.rmtree(left, ignore_errors=True)  # we hold the lock
    part = tempfile.mkdtemp(prefix='fetching-', dir=cache)
    try:
        _run_maven(
            maven, '--batch-mode', '--strict-checksums', f'--file={POM}',
            'dependency:copy-dependencies',
            f'-DoutputDirectory={part}', '-DincludeScope=runtime',
            # Libraries for other systems than this one.
            '-DexcludeClassifiers=osx-x86_64,osx-aarch_64,windows-x86_64',
        )  # fmt: skip
        os.chmod(part, 0o755)
        os.rename(part, jars)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f'Cassandra is in {jars}.')


def _run_maven(*command: str) -> None:
    """Run Maven and tell how many files it has fetched."""
    last: deque[str] = deque(maxlen=15)
    files = 0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as maven:
        assert maven.stdout is not None
        try:
            for line in maven.stdout:
                if 'Downloaded' in line and '.jar' in line:
                    files += 1
                    if files % 25 == 0:
                        say(f'  {files} files so far')
                if 'Download' not in line and 'Progress' not in line:
                    last.append(line)
        except BaseException:
            maven.terminate()
            raise
    if maven.returncode:
        raise LabError(
            'Maven could not fetch Cassandra. Is its repository reachable'
            f' (proxy, ~/.m2/settings.xml)?\n{"".join(last)}'
        )
