"""The one resource: settings in, the pipeline's port out. Nothing is read or connected when this module is imported."""

from collections.abc import Iterator

import dagster as dg

from ac_pipeline.defs.pipeline_mirror import PipelineMirror
from ac_pipeline.settings import load_settings

MIRROR = "mirror"
"""Key of the resource; tests put an object of their own in its place."""


@dg.resource(description="Accounts, documents, ledger, renditions and PDS, as the environment and .env name them.")
def mirror_resource(_: dg.InitResourceContext) -> Iterator[PipelineMirror]:
    """One pipeline for each run or tick, opened when it is first used, closed with the run or tick."""
    with PipelineMirror(load_settings) as mirror:
        yield mirror
