# SPDX-License-Identifier: Apache-2.0
"""What exceptions of the driver mean."""

from __future__ import annotations

import errno
import re
import ssl
import traceback

import cassandra
import keystone.conf
import pytest
from cassandra import ConsistencyLevel, WriteType, protocol
from cassandra.cluster import NoHostAvailable
from cassandra.connection import (
    ConnectionException,
    ConnectionShutdown,
    ProtocolVersionUnsupported,
)
from keystone import exception

from keystone_cassandra_token.db import errors

#: Stands for a bound value that a server quotes.
SECRET = 'kc1_c2VjcmV0'

READ = 'SELECT a FROM token WHERE id_hash = :id_hash'
WRITE = 'UPDATE t SET a = :a WHERE b = :b'
CONNECT = 'connect'


def answered(cls, message: str = f'about {SECRET}', **info):
    """Return what the driver raises for an error answer of a server."""
    code = cls.error_code if cls is not protocol.ErrorMessage else 0x1700
    return cls(code=code, message=message, info=info).to_exception()


def unavailable(message: str = 'Cannot achieve consistency level QUORUM'):
    return answered(
        protocol.UnavailableErrorMessage,
        message,
        consistency=ConsistencyLevel.QUORUM,
        required_replicas=2,
        alive_replicas=1,
    )


def write_timeout(write_type: int, level: int = ConsistencyLevel.SERIAL):
    return answered(
        protocol.WriteTimeoutErrorMessage,
        consistency=level,
        required_responses=2,
        received_responses=1,
        write_type=write_type,
    )


def read_timeout():
    return answered(
        protocol.ReadTimeoutErrorMessage,
        consistency=ConsistencyLevel.LOCAL_QUORUM,
        required_responses=2,
        received_responses=1,
        data_retrieved=False,
    )


def write_failure():
    return answered(
        protocol.WriteFailureMessage,
        consistency=ConsistencyLevel.SERIAL,
        required_responses=2,
        received_responses=1,
        failures=1,
        error_code_map={'127.0.0.1': 0},
        write_type=WriteType.CAS,
    )


def no_host(*causes: BaseException) -> NoHostAvailable:
    return NoHostAvailable(
        'Unable to connect to any servers',
        {f'10.0.0.{number}': cause for number, cause in enumerate(causes)},
    )


def refused() -> OSError:
    # As the driver's connection makes it.
    return ConnectionRefusedError(
        errno.ECONNREFUSED,
        "Tried connecting to [('10.0.0.1', 9042)]. Last error:"
        ' Connection refused',
    )


def untrusted() -> OSError:
    return OSError(
        1,
        "Tried connecting to [('10.0.0.1', 9042)]. Last error: [SSL:"
        ' CERTIFICATE_VERIFY_FAILED] certificate verify failed',
    )


NOT_PERMITTED = answered(
    protocol.UnauthorizedErrorMessage,
    f'User k has no SELECT permission on <table k.token> ({SECRET})',
)
UNKNOWN = {
    'paxos': write_timeout(WriteType.CAS),
    'commit': write_timeout(WriteType.SIMPLE, ConsistencyLevel.LOCAL_QUORUM),
    'failure': write_failure(),
    'cas unknown': answered(protocol.ErrorMessage),
    'server error': answered(protocol.ServerError),
    'no answer': cassandra.OperationTimedOut({SECRET: SECRET}),
    'shutdown': ConnectionShutdown(SECRET),
    'defunct': ConnectionException(SECRET),
}
KNOWN = {
    'unavailable': unavailable(),
    'read timeout': read_timeout(),
    'overloaded': answered(protocol.OverloadedErrorMessage),
    'bootstrapping': answered(protocol.IsBootstrappingErrorMessage),
    'refused': refused(),
    'no host': no_host(refused()),
    'no host at all': no_host(),
    'wrong password': no_host(cassandra.AuthenticationFailed(SECRET)),
    'invalid': answered(
        protocol.InvalidRequestException, f'Invalid value {SECRET}'
    ),
    'syntax': answered(protocol.SyntaxException),
    'unauthorized': NOT_PERMITTED,
}


@pytest.mark.parametrize('name', UNKNOWN)
def test_a_change_may_have_been_made(name: str) -> None:
    failure = errors.translate(UNKNOWN[name], WRITE)
    assert type(failure) is errors.OutcomeUnknown


@pytest.mark.parametrize('name', KNOWN)
def test_a_change_was_not_made(name: str) -> None:
    failure = errors.translate(KNOWN[name], WRITE)
    assert not isinstance(failure, errors.OutcomeUnknown)


@pytest.mark.parametrize('what', [READ, CONNECT])
@pytest.mark.parametrize('name', UNKNOWN)
def test_a_read_changes_nothing(name: str, what: str) -> None:
    failure = errors.translate(UNKNOWN[name], what)
    assert type(failure) is errors.StoreUnavailable
    assert 'change' not in failure.reason


@pytest.mark.parametrize('what', [READ, WRITE, CONNECT])
@pytest.mark.parametrize('name', [*UNKNOWN, *KNOWN])
def test_everything_is_503_in_one_line_without_values(
    name: str, what: str
) -> None:
    error = (UNKNOWN | KNOWN)[name]
    assert isinstance(error, errors.DRIVER_ERRORS)
    failure = errors.translate(error, what)
    assert isinstance(failure, exception.ServiceUnavailable)
    assert failure.code == 503
    assert failure.reason
    for text in (failure.reason, str(failure), repr(failure.args)):
        assert SECRET not in text
        assert '\n' not in text


@pytest.mark.parametrize(
    ('error', 'parts'),
    [
        (unavailable(), ['1 of 2 required', 'too few replicas']),
        (
            unavailable(
                'Cannot achieve consistency level EACH_QUORUM in DC b'
            ),
            ['in datacenter b'],
        ),
        (write_timeout(WriteType.CAS), ['1 of 2 required replicas answered']),
        (read_timeout(), ['1 of 2 required replicas answered']),
        (
            cassandra.OperationTimedOut(),
            ['[cassandra] request_timeout'],
        ),
        (
            no_host(cassandra.AuthenticationFailed('no')),
            ['[cassandra] username', 'password'],
        ),
        (
            no_host(refused()),
            [
                '[database] cassandra_node_ips',
                '[cassandra] port',
                'Connection refused',
            ],
        ),
        (no_host(untrusted()), ['[cassandra] tls_*', 'certificate verify']),
        (
            no_host(ssl.SSLError(1, '[SSL: WRONG_VERSION_NUMBER]')),
            ['[cassandra] tls_*', 'client_encryption_options'],
        ),
        (
            no_host(ConnectionShutdown('closed')),
            ['[cassandra] tls_enabled'],
        ),
        (
            no_host(ConnectionResetError(104, 'Connection reset by peer')),
            ['[cassandra] tls_enabled'],
        ),
        (
            no_host(ProtocolVersionUnsupported('10.0.0.1', 5)),
            ['[cassandra] protocol_version'],
        ),
        (
            cassandra.DriverException(
                'ProtocolError returned from server while using explicitly'
                ' set client protocol_version 5'
            ),
            ['[cassandra] protocol_version'],
        ),
        (
            cassandra.UnresolvableContactPoints({}),
            ['[database] cassandra_node_ips'],
        ),
        (no_host(cassandra.OperationTimedOut()), ['no answer in time']),
        (
            no_host(),
            ['Unable to connect to any servers: no node can be reached'],
        ),
    ],
)
def test_the_reason_names_what_to_look_at(error, parts) -> None:
    reason = errors.translate(error, CONNECT).reason
    for part in parts:
        assert part in reason


def test_reasons_of_several_hosts_are_given_once_each() -> None:
    reason = errors.explain(
        no_host(
            refused(),
            cassandra.AuthenticationFailed('no'),
            cassandra.AuthenticationFailed('again'),
        )
    )
    assert reason.count('log-in') == 1
    assert reason.count('connecting failed') == 1


def test_the_nodes_are_named_that_did_not_answer() -> None:
    error = no_host(cassandra.OperationTimedOut(), refused(), refused())
    told = errors.explain(error)
    assert '10.0.0.0: no answer in time' in told
    assert '10.0.0.1, 10.0.0.2: connecting failed' in told
    assert '10.0.0' not in errors.explain(error, named=False)


def test_another_sentence_may_follow() -> None:
    for error in (*UNKNOWN.values(), *KNOWN.values()):
        for what in (READ, WRITE, CONNECT):
            reason = errors.translate(error, what).reason
            assert re.search(r'\w\)?[.?]$|"[.]$', reason), reason


def test_hosts_may_come_as_a_list() -> None:
    error = NoHostAvailable('none', [refused(), SECRET])  # no addresses
    assert 'connecting failed' in errors.explain(error)
    assert SECRET not in errors.explain(error)


@pytest.mark.parametrize(
    'message',
    [
        'unconfigured table token',
        'table token does not exist',
        'Table token does not exist',
        'keyspace keystone does not exist',
        'Keyspace keystone does not exist',
    ],
)
@pytest.mark.parametrize('what', [READ, WRITE])
def test_a_missing_table_says_what_to_run(message: str, what: str) -> None:
    error = answered(protocol.InvalidRequestException, message)
    failure = errors.translate(error, what)
    assert type(failure) is errors.SchemaMissing
    assert '`keystone-cassandra schema apply`' in failure.reason


def test_another_invalid_request_is_no_missing_schema() -> None:
    error = answered(
        protocol.InvalidRequestException, 'Undefined column name a in table t'
    )
    assert type(errors.translate(error, READ)) is errors.StoreUnavailable


def test_a_missing_permission_names_the_role_and_the_table() -> None:
    reason = errors.translate(NOT_PERMITTED, READ).reason
    assert '[cassandra] username' in reason
    assert 'FROM token' in reason


@pytest.mark.parametrize(
    ('error', 'datacenter'),
    [
        (
            unavailable(
                'Cannot achieve consistency level EACH_QUORUM in DC b'
            ),
            'b',
        ),
        (
            unavailable(
                'Cannot achieve consistency level EACH_QUORUM in DC eu-west_2'
            ),
            'eu-west_2',
        ),
        (unavailable(), ''),
        (write_timeout(WriteType.BATCH, ConsistencyLevel.EACH_QUORUM), ''),
        (read_timeout(), None),
        (cassandra.OperationTimedOut(), None),
        (no_host(refused()), None),
        (answered(protocol.OverloadedErrorMessage), None),
    ],
)
def test_the_datacenter_that_is_away(error, datacenter) -> None:
    assert errors.absent_datacenter(error) == datacenter


def test_percent_signs_in_a_reason_are_kept() -> None:
    failure = errors.StoreUnavailable('100% of nodes %(are)s away')
    assert failure.reason == '100% of nodes %(are)s away'


@pytest.mark.parametrize(
    'kind',
    [
        errors.StoreUnavailable,
        errors.DatacenterUnavailable,
        errors.SchemaMissing,
        errors.OutcomeUnknown,
        errors.Contended,
    ],
)
def test_the_caller_is_told_nothing_of_the_reason(
    kind, keystone_options
) -> None:
    failure = kind(f'{SECRET} in dc1')
    # Keystone makes its answer of args[0], and in places of str().
    assert failure.args == (kind.public,)
    assert str(failure) == kind.public
    assert SECRET not in str(exception.Unauthorized(failure))
    assert SECRET in failure.reason
    assert SECRET in ''.join(traceback.format_exception(failure))


def theirs(text: str):
    return answered(protocol.ServerError, text)


TOO_LARGE = 'Mutation of 9000000 bytes is too large for the maximum size of 8'
#: Of values, as several versions of Cassandra say it.
VALUES = [
    answered(protocol.InvalidRequestException, TOO_LARGE),
    # 4.0 takes it for a fault of its own.
    theirs(f'java.lang.IllegalArgumentException: {TOO_LARGE}'),
    no_host(theirs(f'java.lang.IllegalArgumentException: {TOO_LARGE}')),
    answered(protocol.InvalidRequestException, 'Key may not be empty'),
    answered(protocol.InvalidRequestException, 'Batch too large'),
    answered(protocol.ProtocolException, 'Request is too big: length 2'),
]
#: Whatever the values are.
STATEMENTS = [
    answered(protocol.SyntaxException),
    answered(protocol.ConfigurationException),
    answered(protocol.InvalidRequestException, 'Undefined column name a'),
    answered(
        protocol.InvalidRequestException,
        'Guardrail write_consistency_levels violated: Provided values [ONE]'
        ' are not allowed',
    ),
]


@pytest.mark.parametrize('error', VALUES, ids=str)
def test_a_value_is_refused(error: Exception) -> None:
    failure = errors.refusal(error, WRITE)
    assert type(failure) is errors.ValueRefused
    assert failure.code == 400


@pytest.fixture
def configured() -> None:
    """Keystone's options, by which a 500 decides what it says."""
    keystone.conf.configure()


@pytest.mark.usefixtures('configured')
@pytest.mark.parametrize('error', STATEMENTS, ids=str)
@pytest.mark.parametrize('what', [READ, WRITE])
def test_a_statement_is_refused(error: Exception, what: str) -> None:
    failure = errors.refusal(error, what)
    assert type(failure) is errors.StatementRefused
    assert failure.code == 500
    assert SECRET not in str(failure)


@pytest.mark.usefixtures('configured')
def test_what_was_read_by_is_no_value() -> None:
    failure = errors.refusal(KNOWN['invalid'], READ)
    assert type(failure) is errors.StatementRefused


@pytest.mark.parametrize(
    'name', sorted((UNKNOWN | KNOWN).keys() - {'invalid', 'syntax'})
)
@pytest.mark.parametrize('what', [READ, WRITE])
def test_an_outage_is_no_refusal(name: str, what: str) -> None:
    assert errors.refusal((UNKNOWN | KNOWN)[name], what) is None


@pytest.mark.parametrize('what', [READ, WRITE])
def test_a_missing_table_is_no_refusal(what: str) -> None:
    error = answered(
        protocol.InvalidRequestException, 'table token does not exist'
    )
    assert errors.refusal(error, what) is None


def test_tls_is_thought_of_while_connecting_alone() -> None:
    error = cassandra.connection.ConnectionShutdown('closed')
    assert 'tls_enabled' in errors.translate(error, 'connect').reason
    assert 'tls_enabled' not in errors.translate(error, READ).reason


AWAY = cassandra.Unavailable(
    'x', ConsistencyLevel.SERIAL, required_replicas=2, alive_replicas=1
)


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (AWAY, True),
        (cassandra.ReadTimeout('x'), True),
        (no_host(AWAY), True),
        # One that hangs is no region that is away.
        (cassandra.OperationTimedOut(), False),
        (no_host(OSError('x')), False),
    ],
)
def test_only_a_node_that_answers_tells_of_others(error, expected) -> None:
    assert errors.lacks_replicas(error) is expected
