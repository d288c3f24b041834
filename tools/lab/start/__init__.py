# SPDX-License-Identifier: Apache-2.0
"""What Python runs at the start of a process of Keystone."""
