"""Tests of `ac_pipeline.local` that need no server of their own."""
