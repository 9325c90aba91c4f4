"""PriorTR: by hand, and against eager attention."""

from __future__ import annotations

import numpy as np
import torch

from flowcut.criteria import DecoderEvidence
from flowcut.criteria.prior import priortr, third_layer
from tests.criteria.test_criteria_decoder import attentions, cut_ids, cut_of, fates


def test_priortr_by_hand() -> None:
    """Of P = 1/2, 1/4, 1/4 and Q = 1/4, 1/2, 1/4: ln 2 / 2, -ln 2 / 4, 0; their sizes do not matter."""
    evidence = DecoderEvidence(
        3, last_attention=np.array([0.2, 0.1, 0.1]), prior_attention=np.array([0.03, 0.06, 0.03])
    )
    np.testing.assert_allclose(priortr(evidence, cut_of("priortr")), [np.log(2) / 2, -np.log(2) / 4, 0], atol=1e-8)


def test_the_sum_is_the_divergence_of_task_and_prior() -> None:
    task, prior = np.random.default_rng(0).dirichlet(np.ones(50), size=2)
    found = priortr(DecoderEvidence(50, last_attention=task, prior_attention=prior), cut_of("priortr"))
    expected = torch.nn.functional.kl_div(torch.tensor(prior).log(), torch.tensor(task), reduction="sum")
    np.testing.assert_allclose(found.sum(), expected.item(), rtol=1e-6)


def test_it_cuts_after_layer_two() -> None:
    assert (third_layer(32), third_layer(4), third_layer(3), third_layer(2)) == ((2,), (2,), (1,), (0,))


def test_the_prior_is_the_first_text_token_behind_the_picture() -> None:
    record, layer = cut_ids("priortr"), attentions()[2]
    task, prior = (layer[row, 3:15] / layer[row, 3:15].sum() for row in (-1, 15))
    assert record.layer == 2
    np.testing.assert_allclose(fates(record)[0], task * np.log(task / prior), atol=1e-5)
    assert record.kept(0).tolist() == sorted(np.argsort(-task * np.log(task / prior))[:5])
