# SPDX-License-Identifier: Apache-2.0
"""Cassandra's classes as Java keeps them once it has loaded them.

Half of the CPU time of a node's start goes into reading and checking some ten
thousand classes.  Java can write them to a file at its end, and map that file
at its next start (class data sharing).  It does without if the file does not
fit.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab import ports
from lab.cassandra_install import Java


def path(java: Java, jars: str) -> Path:
    """Return where the archive of these jars is for this Java."""
    machine = Path(java.path).resolve()
    found = os.stat(machine)
    kind = f'{machine} {found.st_mtime_ns} {found.st_size} {java.version}'
    name = hashlib.sha256(kind.encode()).hexdigest()[:12]
    return Path(f'{jars}-{name}.jsa')


def class_path(jars: str) -> str:
    """Return the class path, by which Java knows an archive again.

    All jars of the folder and nothing else: a folder with files cannot be
    archived.
    """
    return f'{jars}/*'


def options(java: Java, jars: str) -> Sequence[str]:
    """Return what lets Java use the archive, if there is one."""
    archive = path(java, jars)
    if not archive.exists():
        return ()
    # A warning would go to standard output, which is nodetool's result.
    return (f'-XX:SharedArchiveFile={archive}', '-Xlog:cds=off')


def find_or_make(
    java: Java, jars: str, run: Callable[[Sequence[str]], object]
) -> None:
    """Make the archive if it is not there.

    :param run: starts a node with these options of Java, and without an
        agent, for which Java makes none; stops it in order, at which Java
        writes the archive.
    """
    archive = path(java, jars)
    if archive.exists():
        return
    with (
        ports.locked(f'{archive}.lock'),
        tempfile.TemporaryDirectory(
            prefix='archiving-', dir=archive.parent
        ) as folder,
    ):
        if not archive.exists():
            part = Path(folder, archive.name)
            run([f'-XX:ArchiveClassesAtExit={part}', '-Xlog:cds=off'])
            # Not if Java had to be killed; the next run tries again.
            if part.exists():
                part.replace(archive)
