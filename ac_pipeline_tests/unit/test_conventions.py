"""Conventions as tests: what every part of the project has, and what no part may have."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.cli.main import cli, run
from ac_pipeline.errors import TRANSIENT_CODES, Transient
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.renditions.recipes import RECIPES

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "ac_pipeline").rglob("*.py"))
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
MOST_LINES = 700


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_every_media_type_has_a_lexicon_and_a_known_recipe(media: object) -> None:
    lexicon = load_lexicons().documents[media.nsid]  # type: ignore[attr-defined]
    properties = lexicon["defs"]["main"]["record"]["properties"]
    assert {blob.name for blob in media.blobs} <= set(properties)  # type: ignore[attr-defined]
    assert media.recipe is None or media.recipe in RECIPES  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_belongs_in_it_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) <= MOST_LINES
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "misc"}


def test_no_generic_module_names_a_media_type() -> None:
    """The variation is data on `MediaType`: no comparison with a media name outside `media/` and the demo data."""
    comparison = re.compile(r"""[!=]=\s*["'](painting|mood|piece|kidlisp|tape)s?["']""")
    generic = [p for p in SOURCES if not {"media", "local"} & set(p.relative_to(ROOT / "ac_pipeline").parts)]
    assert [str(path) for path in generic if comparison.search(path.read_text())] == []


def test_every_transient_error_is_known_by_its_code() -> None:
    def below(error: type[Transient]) -> set[str]:
        return {error.code}.union(
            *(below(each) for each in error.__subclasses__() if each.__module__ == "ac_pipeline.errors")
        )

    assert below(Transient) <= TRANSIENT_CODES


def test_every_command_is_documented_and_answers_to_help() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, command in cli.commands.items():
        assert f"ac-pipeline {name}" in readme, f"README does not show `ac-pipeline {name}`"
        assert command.help
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_every_variable_of_the_example_is_in_the_readme() -> None:
    example = (ROOT / ".env.example").read_text()
    readme = (ROOT / "README.md").read_text()
    names = re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)
    assert names
    assert [name for name in names if name not in readme] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_program_of_a_page_for_developers_exists(page: Path) -> None:
    text = page.read_text()
    paths = set(re.findall(r"(?<![\w./-])([\w.-]+(?:/[\w.-]+)*(?:\.(?:py|md|toml|lock|example)\b|/(?![\w.])))", text))
    paths |= set(re.findall(r"\bac_pipeline(?:_tests)?(?:/[\w.]+)+", text))
    roots = (ROOT, ROOT / "ac_pipeline", ROOT / "ac_pipeline_tests", page.parent)
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not any((root / path).exists() for root in roots)] == []
    programs = set(re.findall(r"\.venv/bin/(\w+)", text))
    assert [name for name in programs if not (Path(sys.executable).parent / name).exists()] == []
    assert page.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text()


def test_the_picture_of_the_rooms_is_that_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    rooms = [name.removeprefix("ac_pipeline.") for layer in layers for name in layer.split(" | ")]
    assert re.findall(r"(?<![\w/])(\w+)(?:/|\.py)(?!\w)", picture) == rooms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("ac_pipeline.cli.main", {"dagster", "atproto", "atproto_client"}),
        ("ac_pipeline.wiring", {"dagster", "atproto", "atproto_client"}),
        ("ac_pipeline.definitions", {"atproto", "atproto_client"}),
    ],
)
def test_what_takes_long_to_import_is_imported_where_it_is_used(module: str, spared: set[str]) -> None:
    """`import dagster` costs about 0.6 s and `import atproto` 0.97 s: neither the command line nor a run pays for what
    it does not use."""
    code = f"import sys, {module}; print(sorted({spared!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_lock_files_pin_with_hashes_and_name_no_host() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["plan", "--since", "yesterday"], 2),
        (["sync", "--item", "poem:abc"], 2),
        (["item", "painting"], 2),
        (["fly"], 2),
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], code: int) -> None:
    assert run(arguments) == code


def test_a_missing_setting_is_one_sentence_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONGODB_CONNECTION_STRING", raising=False)
    monkeypatch.setenv("MONGODB_NAME", "aesthetic")
    assert run(["status"]) == 2
    assert "MONGODB_CONNECTION_STRING is not set" in capsys.readouterr().err
