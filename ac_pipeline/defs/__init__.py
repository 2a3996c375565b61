"""The Dagster definitions: assets, partitions, resources, jobs, schedules and sensors."""
