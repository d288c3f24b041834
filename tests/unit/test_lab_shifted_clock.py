# SPDX-License-Identifier: Apache-2.0
"""A clock that is wrong, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.shifted_clock import Shift

#: Prints all times that Keystone, our drivers and Cassandra's driver see.
SCRIPT = """
import datetime, sys, time, uuid
from pathlib import Path
from lab.shifted_clock import install
install(Path(sys.argv[1]))
from cassandra.timestamps import MonotonicTimestampGenerator
from keystone_cassandra_token.db import clock
true = datetime.datetime.now(datetime.UTC).timestamp()
for _ in sys.stdin:
    for found in (
        time.time(),
        time.time_ns() / 10**9,
        clock.to_micros(clock.utcnow()) / 10**6,
        clock.micros_of(clock.incarnation()) / 10**6,
        MonotonicTimestampGenerator()() / 10**6,
    ):
        print(found - true, flush=True)
"""
#: Seconds; nothing takes as long.
LONG = 10_000


def test_all_clocks_of_a_server_are_shifted_and_at_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / 'clock'
    shift = Shift(file)
    assert shift.seconds == 0
    with subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', SCRIPT, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin
        assert process.stdout
        # Some have promised never to go back.
        for seconds in -LONG, 0, LONG:
            shift.seconds = seconds
            print(file=process.stdin)
            for _ in range(5):
                seen = float(process.stdout.readline())
                assert seconds <= round(seen, 3) < seconds + LONG / 2


def test_what_is_set_is_kept(tmp_path: Path) -> None:
    Shift(tmp_path / 'clock').seconds = -1.5
    assert Shift(tmp_path / 'clock').seconds == -1.5
