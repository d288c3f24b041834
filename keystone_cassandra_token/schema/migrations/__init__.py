# SPDX-License-Identifier: Apache-2.0
"""Numbered migrations, applied in order; an applied one never changes."""
