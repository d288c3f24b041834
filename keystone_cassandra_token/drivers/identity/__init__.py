# SPDX-License-Identifier: Apache-2.0
"""Users, groups and who they are elsewhere."""
