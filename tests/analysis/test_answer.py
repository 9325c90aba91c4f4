"""Words of an answer and their attention, against sums written out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowcut.records.answer_attention import AnswerAttention
from flowcut.records.run import AnswerToken
from flowcut_lens.analysis.answer import answer_words, by_patch, heads_by_mass, look, masses, same_word
from tests.analysis import synthetic

TOKENS, LAYERS, HEADS, VISUAL = 4, 3, 2, 5


def attention() -> AnswerAttention:
    random = np.random.default_rng(0)
    whole = random.dirichlet(np.ones(VISUAL + 3), size=(TOKENS, LAYERS, HEADS)).astype(np.float32)
    norms = random.random((TOKENS, LAYERS, HEADS, VISUAL), dtype=np.float32)
    parts = whole[..., VISUAL], whole[..., VISUAL + 1], whole[..., VISUAL + 2]
    return AnswerAttention(whole[..., :VISUAL], norms, *parts, np.arange(3, 3 + VISUAL))


def answered(*texts: str) -> synthetic.Run:
    run = synthetic.run(synthetic.flow_record(synthetic.Encoder(grid=8)))
    return replace(run, tokens=tuple(AnswerToken(i, text, -0.1, ()) for i, text in enumerate(texts)))


def test_tokens_make_words() -> None:
    words = answer_words(answered("a", " re", "d", " ball", "."))
    assert [(word.text, word.tokens) for word in words] == [("a", (0,)), ("red", (1, 2)), ("ball.", (3, 4))]
    assert answer_words(answered("", " ")) == ()


def test_the_same_word_of_another_answer_is_the_nearest_or_what_stands_in_its_place() -> None:
    wanted = answer_words(answered("a", " b", " a", " c", " d"))
    other = answer_words(answered("a", " x", " y", " a"))
    found = [same_word(other, wanted, at) for at in range(5)]
    assert found == [other[0], other[1], other[3], other[3], None]


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("head", [None, 0])
def test_means_and_shares(layer: int | None, head: int | None) -> None:
    seen, word = attention(), answer_words(answered("a", " re", "d"))[1]
    layers = range(LAYERS) if layer is None else [layer]
    heads = range(HEADS) if head is None else [head]
    places = [(token, one, own) for token in (1, 2) for one in layers for own in heads]
    np.testing.assert_allclose(
        look(seen, word, layer, head), np.mean([seen.visual[p] for p in places], axis=0), rtol=1e-5
    )
    weighted = np.mean([seen.weighted_norm[p] for p in places], axis=0)
    np.testing.assert_allclose(look(seen, word, layer, head, weighted=True), weighted, rtol=1e-5)
    shares = masses(seen, word, layer, head)
    assert sum(vars(shares).values()) == pytest.approx(1, abs=1e-5)
    assert shares.picture == pytest.approx(look(seen, word, layer, head).sum(), rel=1e-5)
    assert shares.first == pytest.approx(np.mean([seen.first[p] for p in places]), rel=1e-5)


def test_a_token_that_a_layer_does_not_read_counts_only_where_it_is_read() -> None:
    seen, word = attention(), answer_words(answered("a"))[0]
    seen.visual[:, 1:, :, 2] = np.nan
    assert look(seen, word)[2] == pytest.approx(seen.visual[0, 0, :, 2].mean(), rel=1e-5)
    assert look(seen, word, layer=2)[2] == 0


def test_heads_come_by_how_much_they_look_at_the_picture() -> None:
    seen, word = attention(), answer_words(answered("a"))[0]
    for layer in (None, 0):
        ranked = heads_by_mass(seen, word, layer)
        assert sorted(head for head, _ in ranked) == [0, 1]
        assert ranked[0][1] >= ranked[1][1]
        assert ranked[0][1] == pytest.approx(masses(seen, word, layer, ranked[0][0]).picture, rel=1e-5)


def test_what_tokens_saw_is_laid_on_the_patches_they_are_made_of() -> None:
    """Five tokens: one patch; two parts of two tiles; the same patch once more; a newline; padding beside a part."""
    none = [-1, -1]
    parts = np.array([[[0, 3], none], [[1, 2], [0, 3]], [[1, 2], none], [none, none], [[1, 0], none]])
    shares = np.array([[1, 0], [0.75, 0.25], [1, 0], [0, 0], [1, 0]], np.float32)
    traced = replace(attention(), source_patches=parts, shares=shares)
    values = np.array([0.1, 0.4, 0.2, 9.0, 0.05])
    for row, expected in enumerate([{3: 0.1 + 0.1}, {0: 0.05, 2: 0.3 + 0.2}]):
        patches, found = by_patch(traced, values, row)
        assert dict(zip(patches.tolist(), found.tolist(), strict=True)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="ask again"):
        by_patch(attention(), values, 0)
