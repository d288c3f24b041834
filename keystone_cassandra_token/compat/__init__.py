# SPDX-License-Identifier: Apache-2.0
"""What Keystone's SQL backends do to what is given and listed."""
