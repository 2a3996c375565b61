"""Tests of the Dagster definitions, run by a real Dagster on a pipeline in memory."""
