"""`docs/reference.md` and `.env.example` are what the code says: they are made from it, and nobody edits them."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ac_pipeline.cli.main import cli
from ac_pipeline.operations.catalog import operations
from ac_pipeline.settings import Settings
from ac_pipeline_tests.reference import FILES, ROOT, meaning_of, reference, settings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_what_the_generator_makes(path: Path) -> None:
    assert path.read_text() == FILES[path](), f"{path.relative_to(ROOT)} is not what the code says: `make reference`"


def test_every_setting_has_a_group_and_says_what_it_means() -> None:
    listed = list(settings())
    assert {name for _, name, _ in listed} == Settings.model_fields.keys()
    assert [name for heading, name, info in listed if not heading or not meaning_of(name, info)] == []


def test_every_command_every_parameter_and_every_job_is_there() -> None:
    """Made from the declarations, but read here by other means."""
    text = reference()
    headings = set(re.findall(r"^### ac-pipeline (.+)$", text, re.MULTILINE))
    assert {each.command for each in operations() if each.command} <= headings
    assert {name.split()[0] for name in headings} == set(cli.list_commands(click.Context(cli)))
    for each in operations():
        named = f"Job `{each.job}`, op `{each.op}`" if each.command else f"### Job {each.job}"
        assert not each.job or named in " ".join(text.split())
        for info in each.parameters.model_fields.values():
            assert " ".join(str(info.description).split()).replace("|", "\\|") in text
