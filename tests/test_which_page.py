"""The page that says how the calibrator decides has the numbers with which it decides."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mlsde.calibration import advice, auto, candidates, choice, measure, result
from mlsde.calibration.model import RULES
from mlsde.calibration.recording import FARTHER

PAGE = " ".join((Path(__file__).parent.parent / "docs" / "which.md").read_text().split())
STEPS, SAMPLES = measure._STAGES[0]
MOST, EACH = candidates._STEPS_AT_MOST

SAID = [
    f"by a factor {FARTHER:g} are named in a warning",
    f"It may cost {auto.SHARE:.0%} of the run".replace("%", " %"),
    f"does not pay for {STEPS} steps of {SAMPLES} samples",
    f"at most {MOST:,} or {EACH} for each evaluation of the top",
    "switched at {}/16, {}/16, … {}/16 of the time".format(
        *(round(16 * candidates.SWITCHES[i]) for i in (0, 1, -1)),
    ),
    "of at most four levels where there are more than five",
    f"({len(RULES)}; {len(candidates.allowed(RULES, 'heun'))} under Heun",
    f"fewer steps are preferred where they cost {candidates._NEAR - 1:.0%} of the squared error".replace("%", " %"),
    "The best eight of 5 get shapes",
    "half its scatter over the coins counts as risk",
    f"predicted at **{choice._WORTH}** of its error or less",
    f"unless coins are predicted at {choice._WORTH} of it",
    f"the predicted error is {advice.MARGIN} times below `tol`",
    f"more than {result._MOST_STEPS:,} steps of the top level is out of reach",
    f"within {advice.AS_ACCURATE} of the error of the top level",
    f"It is kept {advice.MARGIN} times below a tolerance",
]


@pytest.mark.parametrize("said", SAID)
def test_the_page_says_the_numbers_of_the_code(said):
    assert said in PAGE


def test_numbers_that_the_page_has_in_words():
    assert (candidates._MOST_LEVELS, choice._LOOKED_AT, choice._LUCK) == (4, 8, 0.5)
    assert candidates._SURE == (1.0, 0.5, 0.25)
    assert "values from 1, 1/2 or 1/4 on are also tried at 1" in PAGE


class Prices:
    """As much of a model as the numbers of steps ask for: levels at 1 and 64."""

    recording = SimpleNamespace(evaluation=lambda level: {1: 1.0, 3: 64.0}[level], levels=3, stages=1)


def test_numbers_of_steps_are_those_of_the_page():
    """``2^j`` and ``3 * 2^j`` from half of what the top level could have to nine tenths of what the cheapest could."""
    tried = candidates.step_counts(Prices, (1, 3), budget=64.0 * 32, steps=None).tolist()
    assert tried[0] == 16
    assert tried[-1] == 1536
    assert tried == [n for n in sorted([*(2**j for j in range(12)), *(3 * 2**j for j in range(12))]) if 16 <= n <= 1843]


def test_a_simpler_kind_stands_unless_the_other_is_better_by_the_threshold():
    def one(kind, error):
        return candidates.Candidate(kind, (1,), 1, 1.0, error**2, error**2)

    def best(*found):
        return choice._chosen([one(kind, error) for kind, error in found]).best.kind

    assert best(("plain", 1.0), ("stitched", 0.74), ("multilevel", 0.6)) == "stitched"
    assert best(("plain", 1.0), ("stitched", 0.76), ("multilevel", 0.74)) == "multilevel"
    assert best(("plain", 1.0), ("stitched", 0.76), ("multilevel", 0.76)) == "plain"
