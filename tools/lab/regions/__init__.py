# SPDX-License-Identifier: Apache-2.0
"""Regions with a wide area network between them, on one machine.

Each region is a network namespace; a process of this package passes packets
from one to another, late or never, as it is told.
"""
