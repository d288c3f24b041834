# SPDX-License-Identifier: Apache-2.0
"""Errors: what an exception of the driver means to Keystone.

Everything that may pass by itself is a :class:`StoreUnavailable`, which
Keystone answers with 503.  What Cassandra refuses as invalid is none: it is
the caller's fault (:class:`ValueRefused`, 400) or that of these drivers
(:class:`StatementRefused`, 500).  A reason names options, tables and nodes,
never bound values, and is for who operates the servers: the log, the commands,
the doctor.  Callers, who may be anonymous, are told a general text.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct

import cassandra
import cassandra.cluster
import cassandra.connection
import cassandra.protocol
from keystone import exception
from keystone.i18n import _

#: Cassandra's "the outcome of this CAS is not known" (CASSANDRA-15350); the
#: Python driver has no class for it.
_CAS_WRITE_UNKNOWN = 0x1700


class Unheard(cassandra.OperationTimedOut):
    """Other regions did not answer as long as a request waits for them.

    Or a node of this one, which is to ask them, did not.
    """


#: What the driver raises; it has no common base class.
DRIVER_ERRORS = (
    cassandra.DriverException,
    cassandra.RequestExecutionException,
    cassandra.cluster.NoHostAvailable,
    cassandra.connection.ConnectionException,
    cassandra.protocol.ErrorMessage,
    OSError,
)

#: What the driver raises while it binds values: it has no class for them.
BINDING_ERRORS = (
    AttributeError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)

#: How Cassandra and the driver say that a statement is invalid.
_INVALID = (
    cassandra.AlreadyExists,
    cassandra.InvalidRequest,
    cassandra.protocol.RequestValidationException,
)

#: Those of which no value is the cause.
_OF_STATEMENT = (
    cassandra.AlreadyExists,
    cassandra.protocol.ConfigurationException,
    cassandra.protocol.SyntaxException,
)

#: What 4.0 says of a mutation, and all of a request, as a fault of theirs.
_TOO_LARGE = re.compile(
    r'\btoo (large|big|long)\b|exceed\w* (the )?max', re.IGNORECASE
)

#: What no value causes: the columns of a table, or a guardrail of it.
_NO_VALUE = re.compile(
    r'\b(undefined|unknown|consistency|not (allowed|permitted)|disabled)\b',
    re.IGNORECASE,
)

#: Only what changes something can be left half done.
_CHANGES = ('INSERT', 'UPDATE', 'DELETE')
_STATEMENTS = ('SELECT', *_CHANGES)

#: How Cassandra says so: up to 3.x, and since 4.0.
_ABSENT = re.compile(
    r'unconfigured table|\b(table|keyspace) \S+ does not exist',
    re.IGNORECASE,
)

_DATACENTER = re.compile(r'\bin DC (\S+?)["\s]')


class StoreUnavailable(exception.ServiceUnavailable):
    """Cassandra cannot answer now, or not with this configuration: 503.

    Keystone puts ``args[0]`` into the answer, and in places ``str()``: both
    are :attr:`public`.  A traceback shows the reason too, as a note.

    :cvar public: what the caller is told; it names nothing.
    :ivar reason: one line for the operator, without bound values.
    """

    public = (
        'The identity service cannot reach its database now; try again later.'
    )

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(message=self.public)
        self.add_note(reason)


class DatacenterUnavailable(StoreUnavailable):
    """The write is durable in this datacenter and not yet in another: 503."""

    public = (
        'The change was made, but could not yet be made known everywhere; try'
        ' again later.'
    )


class SchemaMissing(StoreUnavailable):
    """The keyspace or a table is missing, or of an older version: 503."""


class OutcomeUnknown(StoreUnavailable):
    """A conditional write may or may not have been applied.

    The caller settles it by a serial read; where it cannot, it lets this
    pass as 503.
    """

    public = 'The change may or may not have been made; try again later.'


class Contended(StoreUnavailable):
    """Others change the same thing all the time: 503."""

    public = 'Too many changes of the same thing at once; try again.'


class ValueRefused(exception.ValidationError):
    """Cassandra cannot store one of the values: 400.

    Without columns and values: the caller may have given neither.
    """

    def __init__(self) -> None:
        super().__init__(
            message=_(
                'A value in the request cannot be stored: it is too large, or'
                ' no valid text, or empty where it must not be.'
            )
        )


class StatementRefused(exception.UnexpectedError):
    """Cassandra refused a statement whatever its values: a fault here, 500."""


def refusal(error: BaseException, what: str) -> exception.Error | None:
    """Return what to raise for a statement that is refused as invalid.

    None if the exception of the driver means anything else, as a missing
    table, which may be there soon.

    :param what: as for :func:`translate`.
    """
    said = [error]
    if isinstance(error, cassandra.cluster.NoHostAvailable):
        said = [each for _, each in _said_by(error)]
    for each in said:
        if not _is_refusal(each):
            continue
        # What is read by, and could not be a key, was not sent.
        if (
            isinstance(each, _OF_STATEMENT)
            or not what.startswith(_CHANGES)
            or _NO_VALUE.search(str(each))
        ):
            return StatementRefused()
        return ValueRefused()
    return None


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, _INVALID):
        return not _ABSENT.search(str(error))
    return isinstance(
        error,
        (cassandra.protocol.ProtocolException, cassandra.protocol.ServerError),
    ) and bool(_TOO_LARGE.search(str(error)))


def translate(error: BaseException, what: str) -> StoreUnavailable:
    """Return what Keystone should raise for an exception of the driver.

    :param error: an exception of :mod:`cassandra`.
    :param what: what was tried: CQL text without values.
    """
    reason = explain(error, connecting=not what.startswith(_STATEMENTS))
    if what.startswith(_CHANGES) and (
        _is_unknown_outcome(error)
        or (' IF ' in what and _is_after_decision(error))
    ):
        return OutcomeUnknown(
            f'Cassandra did not say whether a change was made: {ended(reason)}'
        )
    if isinstance(error, cassandra.InvalidRequest) and _ABSENT.search(
        str(error)
    ):
        return SchemaMissing(
            'A table is missing: run `keystone-cassandra schema apply`.'
        )
    if isinstance(error, cassandra.Unauthorized):
        return StoreUnavailable(
            'The role in [cassandra] username lacks a permission that this'
            f' needs: {ended(what.split(" WHERE ")[0])}'
        )
    return StoreUnavailable(f'Cassandra is not available: {ended(reason)}')


def ended(sentence: str) -> str:
    """Return a sentence with a stop, where another may follow."""
    return sentence if sentence.endswith(('.', '?', '!')) else f'{sentence}.'


def absent_datacenter(error: BaseException) -> str | None:
    """Return the datacenter that kept an EACH_QUORUM write from success.

    An empty string means one that the error does not name; None, that the
    error has another cause.
    """
    if isinstance(error, cassandra.cluster.NoHostAvailable):
        # What is sent again to another node ends so once all have said it.
        datacenters = [absent_datacenter(said) for _, said in _said_by(error)]
        return max(
            (name for name in datacenters if name is not None), default=None
        )
    if isinstance(error, (cassandra.Unavailable, cassandra.WriteTimeout)):
        found = _DATACENTER.search(str(error) + ' ')
        return found[1] if found else ''
    return None


def lacks_replicas(error: BaseException) -> bool:
    """Return whether a node said that others which it needs do not answer.

    A node that does not answer itself says nothing of the others.
    """
    if isinstance(error, cassandra.cluster.NoHostAvailable):
        return any(lacks_replicas(said) for _, said in _said_by(error))
    return isinstance(
        error,
        (
            cassandra.Unavailable,
            cassandra.ReadTimeout,
            cassandra.WriteTimeout,
        ),
    )


def is_refusal(error: BaseException) -> bool:
    """Return whether the role may not do what was tried."""
    return isinstance(error, cassandra.Unauthorized)


def _said_by(
    error: cassandra.cluster.NoHostAvailable,
) -> list[tuple[str, BaseException]]:
    """Return what each node said, by address; empty if that is not known."""
    errors = error.errors
    pairs = (
        [
            (str(getattr(host, 'endpoint', host)), said)
            for host, said in errors.items()
        ]
        if isinstance(errors, dict)
        else [('', said) for said in errors]
    )
    return [
        (address, said)
        for address, said in pairs
        if isinstance(said, BaseException)
    ]


def said(error: cassandra.cluster.NoHostAvailable) -> list[BaseException]:
    """Return what the nodes said; empty if that is not known."""
    return [each for _, each in _said_by(error)]


def _is_unknown_outcome(error: BaseException) -> bool:
    if isinstance(error, (cassandra.WriteTimeout, cassandra.WriteFailure)):
        # Both phases of Paxos report as CAS; the commit reports as SIMPLE.
        return True
    if isinstance(error, cassandra.OperationTimedOut):
        return True
    if isinstance(error, cassandra.connection.ConnectionException):
        return True
    if isinstance(error, cassandra.protocol.ServerError):
        # A coordinator that failed may have failed after the commit.
        return True
    return (
        isinstance(error, cassandra.protocol.ErrorMessage)
        and error.code == _CAS_WRITE_UNKNOWN
    )


def _is_after_decision(error: BaseException) -> bool:
    """Return whether a conditional write can be decided, and fail so.

    Its commit is a write of its own, for which a node looks again how many
    replicas are alive and how much they have to do.
    """
    if isinstance(error, cassandra.Unavailable):
        return not cassandra.ConsistencyLevel.is_serial(error.consistency)
    return isinstance(error, cassandra.protocol.OverloadedErrorMessage)


def explain(
    error: BaseException, named: bool = True, connecting: bool = True
) -> str:
    """Return one line that says what happened, naming what to look at.

    :param named: say the addresses of the nodes, too.
    :param connecting: whether there was no session yet: then TLS may be why.
    """
    if isinstance(error, cassandra.cluster.NoHostAvailable):
        reasons: dict[str, list[str]] = {}
        for address, said in _said_by(error):
            # While connecting it is not the request that timed out.
            reason = (
                _explain_connection(said, connecting)
                if isinstance(said, cassandra.OperationTimedOut)
                else explain(said, connecting=connecting)
            )
            reasons.setdefault(reason, []).append(address if named else '')
        return (
            '; '.join(
                f'{", ".join(sorted(filter(None, addresses)))}: {reason}'
                if any(addresses)
                else reason
                for reason, addresses in sorted(reasons.items())
            )
            or f'{error.args[0]}: no node can be reached'
        )
    if isinstance(error, Unheard):
        return (
            'no answer within [cassandra] claim_wait: other regions'
            ' (datacenters) cannot be reached, or are slow'
        )
    if isinstance(error, cassandra.OperationTimedOut):
        return 'no answer within [cassandra] request_timeout'
    if isinstance(error, cassandra.Unavailable):
        datacenter = absent_datacenter(error)
        where = f' in datacenter {datacenter}' if datacenter else ''
        return (
            f'too few replicas are alive{where}:'
            f' {error.alive_replicas} of {error.required_replicas} required'
        )
    if isinstance(
        error,
        (
            cassandra.ReadTimeout,
            cassandra.WriteTimeout,
            cassandra.ReadFailure,
            cassandra.WriteFailure,
        ),
    ):
        return (
            f'{error.received_responses} of {error.required_responses}'
            ' required replicas answered'
        )
    return _explain_connection(error, connecting)


def _explain_connection(error: BaseException, connecting: bool) -> str:
    if isinstance(error, cassandra.AuthenticationFailed):
        return (
            'the nodes refuse the log-in: check [cassandra] username and'
            ' password'
        )
    if isinstance(error, cassandra.UnresolvableContactPoints):
        return '[database] cassandra_node_ips names no address that resolves'
    if isinstance(error, socket.gaierror):
        return 'the name does not resolve to an address'
    if isinstance(error, cassandra.connection.ProtocolVersionUnsupported) or (
        isinstance(error, cassandra.DriverException)
        and 'protocol_version' in str(error)
    ):
        return 'a node does not speak [cassandra] protocol_version'
    if isinstance(
        error, (cassandra.connection.ConnectionShutdown, ConnectionResetError)
    ):
        closed = 'a node closed the connection'
        if not connecting:
            return closed
        return (
            f'{closed}: is it stopping, or does it want TLS ([cassandra]'
            ' tls_enabled)?'
        )
    if isinstance(error, OSError):
        # The driver puts the cause, TLS's too, in the text of another
        # OSError.
        cause = str(error).rpartition('Last error: ')[2]
        if isinstance(error, ssl.SSLError) or '[SSL' in cause:
            return (
                f'TLS failed ({cause}): check [cassandra] tls_* against'
                ' client_encryption_options and the certificates of the nodes'
            )
        return (
            f'connecting failed ({cause}): is Cassandra running at'
            ' [database] cassandra_node_ips and [cassandra] port?'
        )
    if isinstance(error, cassandra.OperationTimedOut):
        return 'no answer in time'
    if isinstance(error, cassandra.connection.ConnectionException):
        return 'there is no connection to it'
    # The class says enough; the text could quote a value.
    return type(error).__name__
