# SPDX-License-Identifier: Apache-2.0
"""One test over many cases, which names each case that fails.

As ``pytest.mark.parametrize``, for cases by the hundred: a test for each
takes pytest longer than what the test asserts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Cases = Mapping[str, tuple[Any, ...]] | Iterable[str]


def over(cases: Cases) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Return a decorator that lets a test run on each case.

    :param cases: the test's arguments by the name of the case; a name alone
        is its own argument.
    """

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        @functools.wraps(check)
        def test() -> None:
            each(cases, check)

        # pytest would look for fixtures by the parameters of what is wrapped.
        del test.__wrapped__
        return test

    return decorate


def each(cases: Cases, check: Callable[..., None]) -> None:
    """Check each case.

    :raises ExceptionGroup: if some fail; it names them.
    """
    if not isinstance(cases, Mapping):
        cases = {name: (name,) for name in cases}
    assert cases, 'nothing is tested'
    failed: dict[str, Exception] = {}
    for name, arguments in cases.items():
        try:
            check(*arguments)
        except Exception as error:
            error.add_note(f'The case: {name}')
            failed[name] = error
    if failed:
        raise ExceptionGroup(', '.join(map(str, failed)), [*failed.values()])
