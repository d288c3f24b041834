# SPDX-License-Identifier: Apache-2.0
"""Options of ``[cassandra]`` that matter where there are several regions."""

from __future__ import annotations

from oslo_config import cfg

region_opts: list[cfg.Opt] = [
    cfg.FloatOpt(
        'claim_wait',
        default=1.0,
        min=0.1,
        max=60.0,
        help="""
Seconds for which a client's request waits for other regions (datacenters)
without an answer where they must agree (``global_serial_consistency``): to
give or change names, to use a limited trust, to change roles, identity
providers, the catalog or policies. A statement has three fifths of it, the
look for what became of it the rest; then the request is answered with 503, and
for a second all others like it are at once. Each answer begins it anew. Set it
to four times what ``keystone-cassandra doctor`` measures, or more. Commands
have no such end.
""",
    ),
    cfg.FloatOpt(
        'revocation_wait',
        default=1.0,
        min=0.1,
        max=60.0,
        help="""
Seconds for which a revocation waits for other regions (datacenters) in the
strict mode (``revocation_write_consistency = EACH_QUORUM``). It is durable in
its own region before.
""",
    ),
    cfg.BoolOpt(
        'fail_unconfirmed_revocations',
        default=True,
        help="""
Whether a request is answered with 503 if other regions did not confirm its
revocations in ``revocation_wait``. All that it had to do is done in its own
region. When false, the log and the metric ``revocations_unconfirmed`` tell of
it, and the client does not hear.
""",
    ),
    cfg.BoolOpt(
        'follow_changes',
        default=True,
        help="""
Whether a thread of each server looks once a second what servers of other
regions (datacenters) have changed, and drops that from Keystone's caches. When
false, what is revoked, disabled or taken away elsewhere counts here once the
caches expire ([cache] expiration_time), and a revocation that comes late does
not stop whom this region let in meanwhile. Without effect with one region.
uWSGI needs ``enable-threads``, as for the driver.
""",
    ),
    cfg.FloatOpt(
        'escalation_rate',
        default=10.0,
        min=0.0,
        max=10000.0,
        help="""
How many times a second a process, on average, asks other regions
(datacenters) for what is not found here and may have been made there a moment
ago: trusts, credentials, users, groups, projects, roles, identity providers,
the catalog and the like, and tokens and receipts without a tag
(``accept_untagged_ids``); twice as many at once.
What was invented costs other regions no more than that. Ids with a tag
(``token_key``) are asked for without this limit. 0 means that nothing is asked
of other regions at all, and no session with them is opened. Without effect
with one region.
""",
    ),
]
