"""Tables on terminals of any width: every word is whole, and what people need first is there."""

from __future__ import annotations

import re

import pytest

from ac_pipeline.cli.from_operations import print_report
from ac_pipeline.cli.output import table
from ac_pipeline.operations.declare import Report, Table

ITEM, CODE, USER = "painting:507f1f77bcf86cd799439011", "2025.10.31.12.30.45.123", "jeffrey-of-the-long-name"
MESSAGE = "No source object exists; tried user-aesthetic-computer/auth0|c2ce6f447ed4d57b1e2feb89/painting/x.png: 404"
URI = "at://did:plc:66ojvwbspmz7hhcnvj4cri3c/computer.aesthetic.painting/3l5pldf5sz27c"
ROW = {
    "item": ITEM,
    "code": CODE,
    "user": USER,
    "state": "quarantined",
    "stage": "record",
    "class": "source-missing",
    "message": MESSAGE,
    "attempts": 3,
    "uri": URI,
    "until": None,
}


def shown(capsys: pytest.CaptureFixture[str], *tables: Table) -> list[str]:
    print_report(Report("Said.", {}, tables), as_json=False)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200, 400])
def test_no_identifier_is_broken_and_no_message_is_cut(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPER-2."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(capsys, Table("items", tuple(ROW)).extend([ROW, {**ROW, "code": None}]))
    text = "\n".join(lines)
    for whole in (f"painting:{CODE}", ITEM, USER, "quarantined", "source-missing", *MESSAGE.split()):
        assert whole in text, whole
    if width >= 100:
        assert max(map(len, lines)) <= width
    left_out = re.findall("Not shown.*: (.*)\\.", text)
    assert {"uri"} & set(left_out[0].split(", ")) if width < 400 else not left_out
    assert "until" not in text, "a column in which nothing stands takes no room"


@pytest.mark.parametrize("width", [80, 120])
def test_counts_by_type_stand_on_their_side_where_there_is_no_room(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ("documents", "eligible", "withdrawn", "invalid", "records", "unchanged", "pending", "quarantined")
    types = ("painting", "mood", "piece", "kidlisp", "tape", "total")
    counts = Table("status", ("type", *names)).extend(
        {"type": type_, **{name: 1000 + index for index, name in enumerate(names)}} for type_ in types
    )
    lines = shown(capsys, counts)
    assert max(map(len, lines)) <= width
    head = next(line.split() for line in lines if line.split()[:1] == ["type"])
    assert head == (["type", *types] if width == 80 else ["type", *names])
    assert sum(line.count("1003") for line in lines) == len(types)


def test_moments_have_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    moments = ["2026-11-30T17:11:41.846000+00:00", "2026-11-30T17:11Z", "2026-11-30 17:11:41+00:00"]
    table("Moments", ["when"], [[each] for each in [*moments, "2026-11-30T17:11 or so"]])
    out = capsys.readouterr().out
    assert re.findall(r"\d{4}\S* \d\S*", out) == ["2026-11-30 17:11:41", "2026-11-30 17:11:00", "2026-11-30 17:11:41"]
    assert "2026-11-30T17:11 or so" in out


@pytest.mark.parametrize("width", [20, 80])
def test_names_and_values_stand_beside_each_other(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`item` shows all that is known so: also where every name is of several words, and a value has no end."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        ("renditions video details warnings", "its picture is mpeg4, not H.264"),
        ("cid", "bafy" * 30),
        ("url", URI),
    ]
    text = " ".join(" ".join(shown(capsys, Table.of("item", ("field", "value"), rows))).split())
    for name, value in rows:
        assert f"{name} {value}" in text
