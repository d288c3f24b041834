# SPDX-License-Identifier: Apache-2.0
"""What ``tools/regions`` says when it is not used as it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab.regions import calls, cli, namespaces


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / 'state'
    monkeypatch.setenv('KEYSTONE_CASSANDRA_STATE_DIR', str(path))
    return path


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('', 'the following arguments are required: COMMAND'),
        ('fly', "invalid choice: 'fly'"),
        ('up --regions 1', 'must be a number from 2 to 9'),
        ('up --nodes 10', 'must be a number from 0 to 9'),
        ('up --rtt -1', 'must be milliseconds from 0 to 60000'),
        ('up --loss 101', 'must be a percentage from 0 to 100'),
        ('up --reg 3', 'unrecognized arguments: --reg'),
        ('cut', 'required: R'),
        ('cut 0', 'must be a number from 1 to 9'),
        ('heal one', "must be a number from 1 to 9, not 'one'"),
        ('slow fast', "from 0 to 60000, not 'fast'"),
        ('slow nan', "from 0 to 60000, not 'nan'"),
        ('lossy', 'required: PERCENT'),
        ('pause x.1', "must be a number from 1 to 9, not 'x'"),
        ('clock 1', 'required: SECONDS'),
        ('clock 1 soon', 'must be seconds from'),
        ('exec 1', 'required: COMMAND'),
    ],
)
def test_wrong_arguments(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments',
    [
        *('cut 1', 'heal', 'slow 5 1', 'lossy 1', 'pause 1', 'resume 1.2'),
        *('kill 1.keystone', 'start 1', 'clock 1 -5', 'exec 1 -- true'),
    ],
)
def test_without_a_bed(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 1
    assert capsys.readouterr().err == (
        'tools/regions: no bed of this checkout is up (tools/regions up)\n'
    )


def test_status_without_a_bed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['status']) == cli.NOT_RUNNING
    assert 'no bed of this checkout is up' in capsys.readouterr().out


def test_down_removes_what_a_dead_keeper_has_left(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(f'{state}/{calls.prefix()}dead')
    folder.mkdir(parents=True)
    state.chmod(0o700)
    calls.bound(folder / calls.SOCKET).close()
    assert cli.main(['down']) == 0
    assert not folder.exists()
    assert cli.main(['down']) == 0
    assert capsys.readouterr().out == 'All is stopped.\nNo bed is up.\n'


def test_who_may_not_make_namespaces_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As for an ordinary user, who fails one line before.
    monkeypatch.setattr(namespaces, 'TUN', str(tmp_path / 'tun'))
    assert cli.main(['up', '--nodes', '0']) == cli.NOT_ALLOWED
    (line,) = capsys.readouterr().err.splitlines()
    assert 'be root (or have CAP_SYS_ADMIN and CAP_NET_ADMIN)' in line
    assert str(tmp_path / 'tun') in line


def test_a_table_tells_how_all_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {
        'password': 'secret',
        'wan': {
            'loss': 0.015,
            'cut': [2],
            'ways': [
                {
                    **{'from': 1, 'to': 2, 'rtt_ms': 100},
                    **{'packets': 7, 'bytes': 9999, 'lost': 3},
                }
            ],
        },
        'regions': [
            {
                'number': number,
                'datacenter': f'dc{number}',
                'addresses': [f'10.77.{number}.1', f'10.77.{number}.2'],
                'keystone': f'http://10.77.{number}.1:5000/v3',
                'clock': 5.0 if number == 2 else 0.0,
                'parts': {'1': 'up', 'keystone': how},
            }
            for number, how in ((1, 'up'), (2, 'paused'))
        ],
    }

    def call(command: str, **arguments: Any) -> Any:
        return json.loads(json.dumps(state))

    monkeypatch.setattr(calls, 'call', call)
    assert cli.main(['status']) == cli.NOT_RUNNING
    said = [
        ' '.join(line.split()) for line in capsys.readouterr().out.split('\n')
    ]
    assert (
        '2 (dc2) 10.77.2.1 to 10.77.2.2 +5 s cut off; 1 up, keystone paused'
        in said
    )
    assert '1 -> 2 100 ms 7 packets, 9 kB 3' in said
    assert 'Log in there as admin, password secret.' in said
