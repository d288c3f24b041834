# SPDX-License-Identifier: Apache-2.0
"""Options: bounds, wrong values named, and the sample file."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from keystone_cassandra_token import conf as options
from tests import sweep

ALL = [opt for _, opts in options.list_opts() for opt in opts]

Make = Callable[..., cfg.ConfigOpts]


def from_file(folder: Path, text: str) -> cfg.ConfigOpts:
    path = folder / 'keystone.conf'
    path.write_text(text)
    conf = cfg.ConfigOpts()
    options.register_opts(conf)
    conf(
        ['--config-file', str(path)],
        project='keystone',
        default_config_files=[],
    )
    return conf


@sweep.over({opt.name: (opt,) for opt in ALL})
def test_each_option_is_explained(opt: cfg.Opt) -> None:
    assert len(opt.help.split()) >= 6
    bounds = getattr(opt.type, 'min', None), getattr(opt.type, 'max', None)
    if isinstance(opt, (cfg.IntOpt, cfg.FloatOpt)):
        assert None not in bounds


def test_defaults_are_valid(make_conf: Make) -> None:
    assert list(options.problems(make_conf(nodes=['127.0.0.1']))) == []


def test_without_contact_points(make_conf: Make) -> None:
    with pytest.raises(options.ConfigurationError, match='cassandra_node_ips'):
        options.check(make_conf())


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('port', '70000'),
        ('port', 'x'),
        ('keyspace', 'Key-Space'),
        ('keyspace', 'a' * 49),
        ('tls_enabled', 'perhaps'),
        ('protocol_version', '3'),
        ('connect_timeout', '0'),
        ('request_timeout', '121'),
        ('speculative_delay', '-1'),
        ('concurrency', '0'),
        ('name_comparison', 'casual'),
        ('trust_retention', '0'),
        ('token_read_consistency', 'ONE'),
        ('token_write_consistency', 'LOCAL_ONE'),
        ('revocation_read_consistency', 'ANY'),
        ('revocation_write_consistency', 'LOCAL_ONE'),
        ('read_consistency', 'TWO'),
        ('write_consistency', 'ANY'),
        ('global_serial_consistency', 'QUORUM'),
        ('local_serial_consistency', 'QUORUM'),
        ('accept_local_one', '2'),
    ],
)
def test_a_value_out_of_bounds_is_named(
    tmp_path: Path, name: str, value: str
) -> None:
    conf = from_file(
        tmp_path,
        '[database]\ncassandra_node_ips = 127.0.0.1\n'
        f'[cassandra]\n{name} = {value}\n',
    )
    (problem,) = options.problems(conf)
    assert problem.startswith(f'[cassandra] {name}: ')
    with pytest.raises(options.ConfigurationError, match=name):
        options.check(conf)


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('claim_serial_consistency', 'global_serial_consistency'),
        ('mutate_serial_consistency', 'local_serial_consistency'),
    ],
)
def test_a_deprecated_name_sets_the_option(
    tmp_path: Path, old: str, new: str
) -> None:
    for value in ('SERIAL', 'LOCAL_SERIAL'):  # one of them is no default
        conf = from_file(tmp_path, f'[cassandra]\n{old} = {value}\n')
        assert conf.cassandra[new] == value


def test_all_wrong_options_are_named(tmp_path: Path) -> None:
    conf = from_file(
        tmp_path, '[cassandra]\nport = x\nconcurrency = 0\nkeyspace = -\n'
    )
    text = '\n'.join(options.problems(conf))
    assert text.count('\n') == 2
    for name in ('port', 'concurrency', 'keyspace'):
        assert f'[cassandra] {name}: ' in text


@pytest.mark.parametrize(
    ('values', 'names'),
    [
        ({'username': 'keystone'}, ['username', 'password']),
        ({'tls_cert_file': 'a'}, ['tls_cert_file', 'tls_key_file']),
        ({'tls_key_file': 'a'}, ['tls_cert_file', 'tls_key_file']),
        ({'token_key': 'hunter2'}, ['token_key', '32']),
    ],
)
def test_options_that_do_not_fit_together(
    make_conf: Make, values: dict[str, str], names: list[str]
) -> None:
    (problem,) = options.problems(make_conf(nodes=['127.0.0.1'], **values))
    for name in names:
        assert name in problem
    assert 'hunter2' not in problem


@pytest.mark.parametrize('by', ['file', 'environment'])
@pytest.mark.parametrize('name', ['password', 'token_key'])
@pytest.mark.parametrize(
    'value',
    ['one$two three', 'one${two}', 'one$keyspace', 'one$$two$three', '$a.b'],
)
def test_a_dollar_in_a_secret_is_refused_and_not_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    name: str,
    by: str,
) -> None:
    text = '[database]\ncassandra_node_ips = 127.0.0.1\n[cassandra]\n'
    if by == 'file':
        text += f'{name} = {value}\n'
    else:
        monkeypatch.setenv(f'OS_CASSANDRA__{name.upper()}', value)
    conf = from_file(tmp_path, text)
    (problem,) = options.problems(conf)
    with pytest.raises(options.ConfigurationError) as raised:
        options.secret(conf, name)
    told = ''.join(traceback.format_exception(raised.value))
    for shown in (problem, told):
        assert f'[cassandra] {name}: ' in shown
        assert '`$$`' in shown
        # Of the value; a traceback shows lines of the source.
        assert not re.search(r"\bone\b|option t|['\"]two", shown)


@pytest.mark.parametrize(
    ('written', 'read'),
    [
        ('one$$two', 'one$two'),
        (r'one\$two', 'one$two'),
        ('one$ two$', 'one$ two$'),
        ('one%s %(two)s 100%', 'one%s %(two)s 100%'),
        ('one"two \'three', 'one"two \'three'),
    ],
)
def test_other_secrets_are_read_as_written(
    tmp_path: Path, written: str, read: str
) -> None:
    conf = from_file(tmp_path, f'[cassandra]\npassword = {written}\n')
    assert options.secret(conf, 'password') == read
    assert conf.cassandra.password == read


def test_what_is_wrong_is_said_without_objects_of_python(
    tmp_path: Path,
) -> None:
    conf = from_file(tmp_path, '[cassandra]\nport = 70000\nkeyspace = A\n')
    for problem in options.problems(conf):
        assert 'LocationInfo' not in problem
        assert problem.endswith('.')


def test_secrets_are_secret() -> None:
    assert {opt.name for opt in ALL if opt.secret} == {
        'password',
        'token_key',
    }


@pytest.mark.parametrize(
    ('point', 'named'),
    [
        ('10.0.0.1:9042', '[cassandra] port'),
        ('node1:9042', '[cassandra] port'),
        ('node1:', '[cassandra] port'),
        ('[::1]', 'brackets'),
        ('[2001:db8::1]:9042', 'brackets'),
        ('10.0.0.0/24', 'network'),
        ('2001:db8::/64', 'network'),
        ('cassandra://node1', 'network or a URL'),
        ('node1 node2', 'no address'),
        ('"node1"', 'no address'),
    ],
)
def test_what_is_wrong_with_a_contact_point(
    make_conf: Make, point: str, named: str
) -> None:
    (problem,) = options.problems(make_conf(nodes=['127.0.0.1', point]))
    assert problem.startswith(f'[database] cassandra_node_ips: {point} ')
    assert named in problem


@pytest.mark.parametrize(
    'point', ['10.0.0.1', '::1', '2001:db8::1', 'fe80::1%eth0', 'db-1.lan.']
)
def test_contact_points_that_may_resolve(make_conf: Make, point: str) -> None:
    assert not list(options.problems(make_conf(nodes=[point])))


@pytest.mark.parametrize('word', ['schema', 'keyspace', 'token'])
def test_a_reserved_word_is_no_keyspace(make_conf: Make, word: str) -> None:
    (problem,) = options.problems(
        make_conf(nodes=['127.0.0.1'], keyspace=word)
    )
    assert f'[cassandra] keyspace = {word} is a reserved word' in problem


def test_registering_again_is_harmless(make_conf: Make) -> None:
    options.register_opts(make_conf())
