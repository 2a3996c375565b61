"""`python -m ac_pipeline.cli`: the command line without its installed script."""

from __future__ import annotations

from ac_pipeline.cli.main import main

main()
