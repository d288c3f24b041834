# SPDX-License-Identifier: Apache-2.0
"""Java, and Cassandra's jars, fetched once for each user."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from lab import LabError, ports

POM = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    'cassandra.pom.xml',
)
SUPPORTED_JAVA = (11, 17)  # of Cassandra 5.0
INSTALL_JAVA = (
    'On Debian 12:  apt-get install openjdk-17-jre-headless\n'
    'If it is installed elsewhere, let JAVA_HOME name its folder.'
)


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
    match = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr)
    if not match:
        return None
    first, second = match.groups()
    return int(second) if first == '1' and second else int(first)


def find_java() -> Java:
    """The Java to use: JAVA_HOME, then PATH, then Debian's folder.

    :raises LabError: there is none that Cassandra 5.0 runs on.
    """
    paths = []
    if os.environ.get('JAVA_HOME'):
        paths.append(os.path.join(os.environ['JAVA_HOME'], 'bin', 'java'))
    if on_path := shutil.which('java'):
        paths.append(on_path)
    others = []
    for path in paths:
        version = java_version(path)
        if version in SUPPORTED_JAVA:
            return Java(path, version)
        others.append(
            f'{path} does not run'
            if version is None
            else f'{path} is Java {version}'
        )
    if others:
        # A machine with a newer default often has an older one beside it.
        for wanted in reversed(SUPPORTED_JAVA):
            for path in sorted(
                glob.glob(f'/usr/lib/jvm/*-{wanted}-*/bin/java')
            ):
                if java_version(path) == wanted:
                    return Java(path, wanted)
        found = 'but ' + ' and '.join(others)
    else:
        found = 'and no java was found'
    raise LabError(
        f'Cassandra 5.0 runs on Java 11 or 17, {found}.\n{INSTALL_JAVA}'
    )


def version() -> str:
    """The version of Cassandra that the lab runs."""
    with open(POM) as file:
        match = re.search(
            r'<cassandra\.version>([\d.]+)</cassandra\.version>', file.read()
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
    lock = os.path.join(cache, 'fetch.lock')
    with ports.locked(lock):
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
        code, lines = _run_maven(
            [
                maven, '--batch-mode', '--strict-checksums', '--file', POM,
                'dependency:copy-dependencies',
                f'-DoutputDirectory={part}', '-DincludeScope=runtime',
                # Libraries for other systems than this one.
                '-DexcludeClassifiers=osx-x86_64,osx-aarch_64,windows-x86_64',
            ]
        )  # fmt: skip
        if code:
            tail = '\n'.join(lines[-15:])
            raise LabError(
                'Maven could not fetch Cassandra. Is its repository'
                f' reachable (proxy, ~/.m2/settings.xml)?\n{tail}'
            )
        os.chmod(part, 0o755)
        os.rename(part, jars)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f'Cassandra is in {jars}.')


def _run_maven(command: list[str]) -> tuple[int, list[str]]:
    """Run Maven, telling how many files it has; exit code, last lines."""
    lines: list[str] = []
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
                    lines = [*lines[-40:], line.rstrip()]
        except BaseException:
            maven.terminate()
            raise
        return maven.wait(), lines
