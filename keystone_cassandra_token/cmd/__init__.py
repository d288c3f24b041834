# SPDX-License-Identifier: Apache-2.0
"""``keystone-cassandra``."""

import warnings

# A library of Keystone's looks whether eventlet is there, which then says
# more than anybody asked for, at each command.
warnings.filterwarnings('ignore', module=r'oslo_service\.backend\._eventlet')
