# SPDX-License-Identifier: Apache-2.0
"""Tables of users that log in elsewhere, with what they belong to."""

from keystone.identity.backends import sql_model

#: Keystone's own, children first.
MODELS = (
    sql_model.ExpiringUserGroupMembership,
    sql_model.UserGroupMembership,
    sql_model.UserOption,
    sql_model.Password,
    sql_model.NonLocalUser,
    sql_model.FederatedUser,
    sql_model.LocalUser,
    sql_model.User,
)
#: Ours.
TABLES = (
    'user',
    'user_by_domain',
    'user_by_default_project',
    'user_claim',
    'failed_login',
    'federated_claim',
    'nonlocal_claim',
    'membership_by_user',
    'membership_by_group',
    'expiring_membership',
)
