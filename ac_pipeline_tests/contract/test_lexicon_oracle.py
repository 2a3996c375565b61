"""Our validator against the protocol's own (npm `@atproto/lex-document`, which the reference PDS is built with).

Where the two differ, ours is the stricter one and the difference is listed with its reason in `oracle/cases.py`: what
we let pass, any other software of the network takes for valid (REC-1).
"""

from __future__ import annotations

import random

import pytest

from ac_pipeline.atproto.lexicon import Lexicons, compile_lexicons, load_lexicons
from ac_pipeline_tests.oracle.cases import CASES, EVERYTHING, LOOSER, RULES, STRICTER, SYNTHETIC, Case
from ac_pipeline_tests.oracle.judge import Verdicts, judge
from ac_pipeline_tests.sample_records import NSIDS, example


@pytest.fixture(scope="module")
def lexicons() -> Lexicons:
    return compile_lexicons({**load_lexicons().documents, **SYNTHETIC})


@pytest.fixture(scope="module")
def verdicts(lexicons: Lexicons) -> Verdicts:
    return judge(list(lexicons.documents.values()), [case.question() for case in CASES])


def test_the_protocols_validator_takes_our_lexicons_for_proper_ones(lexicons: Lexicons, verdicts: Verdicts) -> None:
    refused = {
        nsid: verdict.reason
        for nsid, verdict in zip(lexicons.documents, verdicts.documents, strict=True)
        if not verdict.valid
    }
    assert refused == {}


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name[:60] for case in CASES])
def test_both_validators_agree_or_ours_is_stricter_for_a_reason(
    lexicons: Lexicons, verdicts: Verdicts, index: int
) -> None:
    """REC-1, SRC-8, VERIFY-3."""
    case, theirs = CASES[index], verdicts.cases[index]
    problems = lexicons.problems(case.nsid, case.record, case.rkey)
    if case.name in STRICTER:
        assert (theirs.valid, bool(problems)) == (True, True), "no longer a difference: take it off the list"
    elif case.name in LOOSER:
        assert (theirs.valid, bool(problems)) == (False, False), "no longer a difference: take it off the list"
    else:
        assert (not problems) == theirs.valid, f"ours: {problems}; theirs: {theirs}"


def test_every_listed_difference_is_a_case() -> None:
    assert STRICTER.keys() | LOOSER.keys() <= {case.name for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)


def test_no_mixture_of_values_passes_ours_alone(lexicons: Lexicons) -> None:
    """Never looser, but for those listed: values of all cases in all fields of all types, 3,000 records with one
    seed."""
    dice = random.Random(20251014)
    values = [value for rule, values in RULES.items() for value in values if f"{rule}: {value!r}" not in LOOSER]
    mixed: list[Case] = []
    for number in range(3_000):
        nsid = dice.choice([*NSIDS, EVERYTHING])
        record = example(nsid) if nsid != EVERYTHING else {"$type": nsid, "text": "x"}
        declared = sorted(lexicons.documents[nsid]["defs"]["main"]["record"]["properties"])
        for name in dice.sample([*declared, "extra"], dice.choice([1, 1, 2])):
            record[name] = dice.choice(values)
        mixed.append(Case(str(number), nsid, record))
    verdicts = judge(list(lexicons.documents.values()), [case.question() for case in mixed]).cases
    looser = [
        (case.record, verdict.reason)
        for case, verdict in zip(mixed, verdicts, strict=True)
        if not verdict.valid and not lexicons.problems(case.nsid, case.record)
    ]
    assert looser == []
    assert sum(verdict.valid for verdict in verdicts) > 300
