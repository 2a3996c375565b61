"""The one partition dimension: the user. How keys are made is `ac_pipeline/accounts.py`, who adds them `sensors.py`.

Media types are assets, never a second dimension: two dimensions do not scale to thousands of users (Dagster facts,
"Partitions").
"""

import dagster as dg

USERS = "users"
"""Name of the dimension in the instance."""

users = dg.DynamicPartitionsDefinition(name=USERS)

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
"""Tags of a run over all keys from one to another, both included, in the order in which keys were added."""

PARTITION = "dagster/partition"
"""Tag of a run over one key."""
