# SPDX-License-Identifier: Apache-2.0
"""Tokens, receipts and revocations."""
