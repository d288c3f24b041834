# SPDX-License-Identifier: Apache-2.0
"""What the commands have in common; with Python's own library alone."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lab import LabError


def number(low: int, high: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a number in these bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f'must be a number from {low} to {high}, not {text!r}'
            )
        return int(text)

    return parse


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status.

    What went wrong is a line on standard error.  Ended by kill(1) as by
    Ctrl-C, it cleans up.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command()
    except (LabError, OSError) as error:
        print(f'{program}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'{program}: interrupted', file=sys.stderr)
        return 130


def output(name: str, command: Sequence[str], **options: Any) -> str:
    """Run a program and return what it prints.

    :param name: of the program, for the error.
    :param options: those of ``subprocess.run``.
    :raises LabError: it failed; the text says how.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f'{name} exited with {done.returncode}:\n{said}')
    return done.stdout
