# SPDX-License-Identifier: Apache-2.0
"""Measurements of the drivers beside what Keystone has without them.

Each benchmark starts the servers it needs, measures the systems in turns
(A B A B ...), so that what else the machine does hits all of them, and ends
with a verdict on the figures that the project promises.
"""
