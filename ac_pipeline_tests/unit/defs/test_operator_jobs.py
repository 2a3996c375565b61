"""Operations are declared once: command and job of each have the same parameters, and answer the same."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import click
import dagster as dg
import pytest
from click.testing import CliRunner, Result

from ac_pipeline.cli.from_operations import command_of
from ac_pipeline.defs.assets.catalog import records_key
from ac_pipeline.defs.metadata import fitted_table
from ac_pipeline.defs.operator_jobs import ROWS, job_of
from ac_pipeline.errors import Misconfigured, NoCredentials, PipelineError, ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.catalog import operations
from ac_pipeline.operations.declare import Declaration, Report, Table, Work
from ac_pipeline.operations.parameters import OfOneUser, confirm_option, dry_run_option, option, why_option
from ac_pipeline.operations.sync import run_apply_plan
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import said, sentence

MOODS = records_key(media_type("mood"))
OPERATIONS = tuple(operations())
WITH_JOB = [each for each in OPERATIONS if each.job]


def schema(job: dg.JobDefinition) -> dict[str, Any]:
    (op,) = job.nodes
    config: Any = op.definition.config_schema
    return dict(config.config_type.fields)


# ------------------------------------------------------------------------------------------------- every operation


@pytest.mark.parametrize("operation", [each for each in WITH_JOB if each.command], ids=lambda each: each.command)
def test_command_and_job_have_the_same_parameters_defaults_and_help(operation: Declaration[Any]) -> None:
    """OPER-1."""
    fields = schema(job_of(operation))
    options = {each.name: each for each in command_of(operation).params if each.name not in {"as_json", "as_csv"}}
    assert set(fields) == set(options) == set(operation.parameters.model_fields)
    for name, field in fields.items():
        assert not field.is_required
        assert field.description
        given: Any = options[name]
        if isinstance(given, click.Option):
            assert given.help in field.description
        if name == "dry_run":
            assert field.default_value is ("confirm" not in fields), "a job that is launched as it is writes nothing"
        elif name == "confirm" and given.default is None:
            assert field.default_value == -1, "it is seen in a launchpad that nobody has touched"
        elif isinstance(given, click.Option) and not given.multiple:
            assert field.default_value == given.default


@pytest.mark.parametrize("operation", WITH_JOB, ids=lambda each: each.job)
def test_every_operation_says_what_it_does(operation: Declaration[Any]) -> None:
    job = job_of(operation)
    assert job.tags["kind"] == "operator"
    assert operation.help in str(job.description)
    assert len(operation.help) > 60


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.command)
def test_no_help_text_breaks_a_word(operation: Declaration[Any]) -> None:
    """A line that ends within a word, such as `ac-` and `pipeline`, would be shown with a space in it."""
    assert re.findall(r"\w-\n\s*\w+", operation.help) == []


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if "confirm" in each.parameters.model_fields], ids=lambda each: each.job
)
def test_what_has_to_be_confirmed_is_not_by_default(operation: Declaration[Any]) -> None:
    assert not operation.parse({}).confirm
    if operation.parameters.model_fields["confirm"].default is None:
        assert operation.parse({"confirm": -1}).confirm is None


# ------------------------------------------------------------------------------------------------------- one of ours


class Given(OfOneUser):
    """Parameters of an operation of the tests."""

    confirm: int | None = confirm_option("records")
    dry_run: bool = dry_run_option("done")
    colours: list[str] = option([], "Which colours.", name="--colour")
    why: str = why_option()


class Desk:
    """One operation as command and as job; `error` is raised, `failed` and `rows` are its report's."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.error: PipelineError | None = None
        self.failed = False
        self.rows = 2
        self.done: list[Given] = []
        self.declared = Declaration("paint", "paint_user", "paint_one_user", Given, self._run)

    def _run(self, work: Work, given: Given) -> Report:
        """Paint what a user has, in some colours."""
        if self.error is not None:
            raise self.error
        table = Table("painted", ("item", "reason")).extend({"item": f"i{n}", "reason": "r"} for n in range(self.rows))
        if given.dry_run or given.confirm != 3:
            json = {"total": 3, "painted": table}
            return Report("3 records would be painted.", json, [table], confirm=3, exit_code=0 if given.dry_run else 2)
        self.done.append(given)
        touched = {("ada", "mood"): {"painted": 3}}
        code = 1 if self.failed else 0
        return Report("3 records.", {"total": 3}, [table], exit_code=code, failed=self.failed, touched=touched)

    pipeline = SimpleNamespace(settings=SimpleNamespace(destination="PDS pds.example and database platform"))

    def command(self, *words: str) -> Result:
        stand_in: Any = nullcontext(self.pipeline)
        return CliRunner().invoke(command_of(self.declared, lambda: stand_in), words, standalone_mode=False)

    def launch(self, **config: object) -> dg.ExecuteInProcessResult:
        job = job_of(self.declared)
        (op,) = job.nodes
        return job.execute_in_process(
            run_config={"ops": {op.name: {"config": config}}},
            resources={"pipeline": SimpleNamespace(open=lambda: self.pipeline)},
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def desk() -> Iterator[Desk]:
    with open_instance() as instance:
        yield Desk(instance)


def test_a_preview_is_green_and_says_what_to_launch(desk: Desk) -> None:
    """OPER-3."""
    result = desk.launch(user="ada", dry_run=False, colours=["red"])
    assert result.success
    shown = said(result)
    assert shown["confirm"] == 3
    assert "To do it on PDS pds.example and database platform, launch again with confirm 3." in shown["answer"]
    assert shown["target"] == "PDS pds.example and database platform"
    printed = desk.command("ada", "--colour", "red", "--colour", "dark blue")
    assert printed.return_value == 2
    assert "ac-pipeline paint ada --confirm 3 --colour red --colour 'dark blue'" in printed.output
    assert "To do it on PDS pds.example and database platform:" in printed.output
    assert desk.command("ada", "--dry-run").return_value == 0
    assert desk.done == []


def test_runs_are_told_apart_by_their_tags_and_answer_with_one_line_and_a_materialisation(desk: Desk) -> None:
    """OPER-3: user, operation and dry run; the tables stand on the page of the asset of the job."""
    preview, done = desk.launch(user="ada"), desk.launch(user="ada", confirm=3, dry_run=False)
    for result, dry_run in ((preview, "true"), (done, "false")):
        run = desk.instance.get_run_by_id(result.run_id)
        assert run is not None
        tags = {name: run.tags[f"ac_pipeline/{name}"] for name in ("operation", "user", "dry_run")}
        assert tags == {"operation": "paint", "user": "ada", "dry_run": dry_run}
    lines = [entry.user_message for entry in desk.instance.all_logs(done.run_id) if entry.level == logging.INFO]
    assert lines == ["3 records."]
    record = desk.instance.fetch_materializations(dg.AssetKey(["operations", "paint_user"]), limit=1).records[0]
    assert record.asset_materialization is not None
    assert record.asset_materialization.description == "3 records."
    assert list(record.asset_materialization.metadata) == ["answer", "painted", "target"]


def test_a_plan_is_carried_out_from_the_launchpad_only_when_it_is_named() -> None:
    """PLAN-4: the job of `sync --plan`, with its canary; as it stands it writes nothing."""
    assert schema(job_of(run_apply_plan))["dry_run"].default_value is True
    assert "canary" in schema(job_of(run_apply_plan))
    nothing: Any = None
    with pytest.raises(Misconfigured, match="No plan is named"):
        run_apply_plan.run(nothing, run_apply_plan.parse({"plan": " "}))


def test_another_number_is_refused(desk: Desk) -> None:
    """PLAN-5."""
    result = desk.launch(user="ada", dry_run=False, confirm=4)
    assert not result.success
    assert "4 is not 3" in sentence(result)
    assert desk.command("ada", "--confirm", "4").return_value == 2
    assert desk.done == []


def test_a_launch_as_it_is_writes_nothing(desk: Desk) -> None:
    """PLAN-1: nor with the right number, while dry_run is true."""
    assert desk.launch(user="ada").success
    assert desk.launch(user="ada", confirm=3, dry_run=True).success
    assert desk.done == []


def test_both_do_it_with_the_same_parameters(desk: Desk) -> None:
    """OPER-1."""
    assert desk.launch(user="ada", confirm=3, dry_run=False, why="asked", colours=["red"]).success
    assert desk.command("ada", "--confirm", "3", "--why", "asked", "--colour", "red").return_value == 0
    assert desk.done[0] == desk.done[1]
    (event,) = desk.instance.fetch_observations(MOODS, limit=5).records
    assert event.partition_key == "ada"


def test_what_went_wrong_is_red_with_its_tables(desk: Desk) -> None:
    """OPER-3, PLAN-3."""
    desk.failed = True
    result = desk.launch(user="ada", confirm=3, dry_run=False)
    assert not result.success
    assert "3 records." in sentence(result)
    assert len(said(result)["painted"]) == 2
    assert desk.command("ada", "--confirm", "3").return_value == 1


@pytest.mark.parametrize("error", [NoCredentials("ada has no password"), ServiceUnreachable("MongoDB is away")])
def test_a_refusal_is_one_sentence_and_is_not_tried_again(desk: Desk, error: PipelineError) -> None:
    desk.error = error
    result = desk.launch(user="ada")
    assert sentence(result) == error.message
    assert not any(event.is_step_up_for_retry for event in result.all_events)


@pytest.mark.parametrize(("rows", "hidden"), [(ROWS, None), (ROWS + 1, 1)])
def test_a_long_table_shows_its_first_rows_and_counts_the_rest(desk: Desk, rows: int, hidden: int | None) -> None:
    """OPS-6: an event is kept for good; JSON has all."""
    desk.rows = rows
    shown = said(desk.launch(user="ada"))
    assert len(shown["painted"]) == ROWS
    assert shown.get("painted_not_shown") == hidden
    document = json.loads(desk.command("ada", "--dry-run", "--json").output)
    assert len(document["painted"]) == rows
    assert document["total"] == 3
    assert document["command"] == "ac-pipeline paint ada --confirm 3"


def test_a_wrong_value_is_named(desk: Desk) -> None:
    wrong = desk.command("ada", "--confirm", "x")
    assert "'x' is not a valid integer" in str(wrong.exception)
    with pytest.raises(Misconfigured, match="colours"):
        desk.declared.parse({"colours": "red"})


def test_a_table_that_is_wider_than_the_page_has_what_has_no_room_by_name_in_its_last_column() -> None:
    """OPER-2."""
    narrow = fitted_table([{"user": "ada", "message": "a short one"}], ("user", "message"))
    assert [column.name for column in narrow.schema.columns] == ["user", "message"]
    names = ("when", "action", "who", "users", "types", "records", "outcome", "why")
    row = dict(
        zip(names, ("2026-11-30 19:13:19", "wipe", "operator@host", "ada", "mood", "3", "done", None), strict=True)
    )
    wide = fitted_table([row], names)
    assert [column.name for column in wide.schema.columns] == ["when", "action", "more"]
    counted = fitted_table(
        [{"type": name, "documents": 1, "records": 2} for name in ("mood", "tape")][:1],
        ("type", "documents", "records"),
    )
    assert [column.name for column in counted.schema.columns] == ["type", "mood"]
    assert wide.records[0].data["more"] == "who: operator@host; users: ada; types: mood; records: 3; outcome: done"
