"""What every grader is held to: right answers pass, and of wrong ones both languages say what is wrong."""

import pytest

from rlhf import checks


def told_apart(right, wrong):
    """Two tests, over rows ``(grader, arguments)`` and ``(grader, arguments, what the explanation says)``;
    a single argument that is no tuple may stand alone. Bind them to names that begin with ``test_``."""

    @pytest.mark.parametrize("row", right, ids=label)
    def test_right_answers_pass(row):
        verdict = graded(row)
        assert verdict.must_pass() is verdict and verdict.sign == "✓", verdict

    @pytest.mark.parametrize("row", wrong, ids=label)
    def test_wrong_answers_are_named(row):
        verdict = graded(row)
        assert verdict.passed is False and row[2] in verdict.en, verdict
        assert any("\u4e00" <= letter <= "\u9fff" for letter in verdict.zh)
        with pytest.raises(AssertionError, match=row[0]):
            verdict.must_pass()

    return test_right_answers_pass, test_wrong_answers_are_named


def graded(row):
    """The verdict of the row's grader on the row's arguments."""
    return getattr(checks, row[0])(*row[1]) if isinstance(row[1], tuple) else getattr(checks, row[0])(row[1])


def label(row):
    """``e07_1-buggy_loss-the sign``: the grader, the answer if it has a name, and what is said."""
    answer = row[1][0] if isinstance(row[1], tuple) and len(row[1]) == 1 else row[1]
    name = getattr(answer, "__name__", "").strip("<>")
    return "-".join(filter(None, (row[0], name, row[2] if len(row) > 2 else "ok")))
