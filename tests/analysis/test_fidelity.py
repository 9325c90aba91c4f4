"""Two answers compared: literal cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcut.records.run import AnswerToken, Run
from flowcut_lens.analysis.fidelity import compare, mark_words
from tests.analysis import synthetic


def answer(text: str, *tokens: tuple[int, float], runners_up: tuple[tuple[int, str, float], ...] = ()) -> Run:
    record = synthetic.flow_record(synthetic.Encoder(grid=4, n_layers=3))
    made = tuple(AnswerToken(token, f"<{token}>", logprob, runners_up) for token, logprob in tokens)
    return synthetic.run(record, answer=text, tokens=made)


def test_same_answers_have_no_divergence_but_a_gap() -> None:
    found = compare(answer("a ball", (1, -0.1), (2, -0.2)), answer("a ball", (1, -0.3), (2, -0.6)))
    assert found.same_tokens
    assert found.divergence is None
    assert found.logprob_gap == pytest.approx(-0.3)
    assert found.reference_loss_at_divergence is None
    assert not any(word.differs for word in found.reference_words + found.other_words)


def test_the_first_token_that_differs() -> None:
    runners_up = ((8, "<8>", -2.0), (2, "<2>", -1.5))
    found = compare(
        answer("a red ball", (1, -0.1), (2, -0.2), (3, -0.1)),
        answer("a blue ball", (1, -0.2), (7, -0.4), (3, -0.1), runners_up=runners_up),
    )
    assert found.shared_tokens == 1
    assert found.divergence is not None
    assert (found.divergence.position, found.divergence.reference_text, found.divergence.other_text) == (
        1,
        "<2>",
        "<7>",
    )
    assert found.logprob_gap == pytest.approx(-0.1)
    assert found.reference_loss_at_divergence == pytest.approx(-0.4 + 1.5)
    assert [word.text for word in found.reference_words if word.differs] == ["red"]
    assert [word.text for word in found.other_words if word.differs] == ["blue"]


def test_nothing_shared_and_nothing_known_is_said_so() -> None:
    found = compare(answer("red", (2, -0.2)), answer("blue", (7, -0.4)))
    assert found.logprob_gap is None
    assert found.reference_loss_at_divergence is None


def test_an_answer_that_ends_earlier_parts_at_its_end() -> None:
    found = compare(answer("a b", (1, -0.1), (2, -0.1)), answer("a", (1, -0.1)))
    assert found.divergence is not None
    assert (found.divergence.reference_text, found.divergence.other_text) == ("<2>", None)


@pytest.mark.parametrize(
    ("left", "right", "differ"),
    [("the red ball", "the ball", (["red"], [])), ("", "yes", ([], ["yes"])), ("two", "two", ([], []))],
)
def test_words_without_a_partner_are_marked(left: str, right: str, differ: tuple[list[str], list[str]]) -> None:
    found = mark_words(left, right)
    assert tuple([word.text for word in words if word.differs] for words in found) == differ


def test_runs_of_other_questions_are_refused() -> None:
    run = answer("a", (1, -0.1))
    with pytest.raises(ValueError, match="one question"):
        compare(run, replace(run, question="Why?"))
