"""FlowCut's criteria on values small enough to check by hand."""

import math

import pytest
import torch

from flowcut.criteria.flowcut import accumulate, cls_logits, criteria, entropy_ratio, highest, patch_shares, value_norm


def test_official_shares_are_the_softmax_over_all_with_cls_dropped() -> None:
    logits = torch.tensor([[[1.0, 0.0, math.log(3.0)], [5.0, 0.0, 0.0]]])  # one image, two heads, CLS and two patches
    over_all = logits.softmax(-1).mean(1)[:, 1:]
    torch.testing.assert_close(patch_shares(logits, "official"), over_all / over_all.sum())


def test_paper_shares_ignore_cls() -> None:
    logits = torch.tensor([[[9.0, 0.0, math.log(3.0)], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(patch_shares(logits, "paper"), torch.tensor([[(0.25 + 0.5) / 2, (0.75 + 0.5) / 2]]))


def test_shares_survive_what_underflows_in_float32() -> None:
    logits = torch.tensor([[[500.0, 0.0, math.log(3.0), -400.0]]])
    for variant in ("official", "paper"):
        torch.testing.assert_close(patch_shares(logits, variant), torch.tensor([[0.25, 0.75, 0.0]]))


def test_entropy_takes_zero_times_log_zero_as_zero() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    assert entropy_ratio(shares).tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_the_semantic_softmax_is_scaled_in_the_paper_only() -> None:
    value = torch.randn(1, 2, 5, 4)
    query, key = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    plain, scaled = cls_logits(value, value, 1.0), cls_logits(value, value, 0.5)
    torch.testing.assert_close(criteria(query, key, value, 0.5, "official").semantic, patch_shares(plain, "official"))
    torch.testing.assert_close(criteria(query, key, value, 0.5, "paper").semantic, patch_shares(scaled, "paper"))


def test_value_norm_averages_heads_before_the_absolute_value() -> None:
    value = torch.tensor([[[[1.0, -2.0]], [[-1.0, -4.0]]]])  # one token, two heads
    assert value_norm(value).item() == 3.0


def test_the_score_adds_relation_and_meaning_and_weighs_by_norm() -> None:
    found = criteria(*(torch.randn(2, 3, 6, 4) for _ in range(3)), 0.5, "official")
    torch.testing.assert_close(found.score, (found.relation + found.semantic) * found.norm)
    torch.testing.assert_close(found.relation.sum(-1), torch.ones(2))
    torch.testing.assert_close(found.semantic.sum(-1), torch.ones(2))


def test_the_running_score_starts_as_the_score_and_halves_the_past() -> None:
    first = accumulate(None, torch.tensor([[4.0, 0.0]]))
    assert accumulate(first, torch.tensor([[0.0, 2.0]])).tolist() == [[2.0, 1.0]]


def test_the_highest_stay_in_order_and_ties_go_to_the_first() -> None:
    assert highest(torch.tensor([[1.0, 5.0, 1.0, 7.0, 1.0]]), 3).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype: torch.dtype) -> None:
    parts = [(torch.randn(1, 2, 9, 8) * 6).to(dtype) for _ in range(3)]
    half = criteria(*parts, 8**-0.5, "official")
    full = criteria(*(part.float() for part in parts), 8**-0.5, "official")
    for name in ("relation", "semantic", "norm"):
        assert getattr(half, name).dtype == torch.float32
        torch.testing.assert_close(getattr(half, name), getattr(full, name))
        assert torch.isfinite(getattr(half, name)).all()
