"""One-shot methods and their registry."""

import json
from typing import Any

import numpy as np
import pytest

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.stages import DECODER, ENCODER, PROJECTOR, STAGES, Stage
from flowcut.cut import stage_of


def kept(name: str, evidence: Evidence, **settings: Any) -> list[list[int]]:
    return METHODS[name].select(evidence, flowcut.Cut(name, **settings)).tolist()


def test_every_method_has_a_name_a_source_a_stage_and_a_kind() -> None:
    assert list(flowcut.methods()) == list(METHODS)
    assert all(source for source in flowcut.methods().values())
    assert {method.cuts_at for method in METHODS.values()} == set(STAGES.values())
    assert {method.kind for method in METHODS.values()} == {"control", "flowcut", "ablation", "peer"}


def test_random_is_its_seed() -> None:
    evidence = Evidence(2, 50)
    draws = [kept("random", evidence, tokens=9, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0][0] != draws[0][1]
    assert kept("random", Evidence(1, 50), tokens=50) == [list(range(50))]


def test_random_per_image_does_not_know_its_place_in_the_batch() -> None:
    batch, alone = (kept("random", Evidence(b, 50), tokens=9, per_image=True) for b in (3, 1))
    assert batch[2] == alone[0]


def test_stride_is_every_nth_patch() -> None:
    assert kept("stride", Evidence(1, 12), tokens=4) == [[0, 3, 6, 9]]
    assert kept("stride", Evidence(1, 7), tokens=3) == [[0, 2, 4]]


def test_cls_attention_keeps_the_strongest_and_of_equal_ones_the_first() -> None:
    evidence = Evidence(1, 5, np.array([[0.1, 0.5, 0.1, 0.2, 0.1]]))
    assert kept("cls-attention", evidence, tokens=3) == [[0, 1, 3]]


def test_chosen_keeps_what_it_is_told() -> None:
    cut = flowcut.Cut("chosen", tokens=3, patches=[7, 2, 5])
    assert cut.patches == (2, 5, 7)
    assert METHODS["chosen"].select(Evidence(2, 8), cut).tolist() == [[2, 5, 7]] * 2
    with pytest.raises(flowcut.InvalidCut, match=r"holds 7 and this picture has 7: choose among 0 to 6"):
        METHODS["chosen"].select(Evidence(2, 7), cut)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"method": "chosen", "tokens": 3}, r"patches is None: give the ids"),
        ({"method": "chosen", "tokens": 3, "patches": "345"}, r"patches is '345'"),
        ({"method": "chosen", "tokens": 3, "patches": (1, 2)}, r"holds 2 ids.*tokens is 3"),
        ({"method": "chosen", "tokens": 3, "patches": (1, 2, 2)}, r"holds 3 ids, 2 of them different"),
        ({"method": "chosen", "tokens": 2, "patches": (1, -2)}, r"a patch is -2"),
        ({"method": "chosen", "tokens": 2, "patches": (1, 2.5)}, r"a patch is 2\.5"),
        ({"method": "random", "tokens": 2, "patches": (1, 2)}, r"'random' chooses the patches itself"),
    ],
)
def test_patches_that_cannot_be_chosen(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(flowcut.InvalidCut, match=sentence) as caught:
        flowcut.Cut(**settings)
    assert "\n" not in str(caught.value)


def test_settings_without_patches_say_nothing_of_them() -> None:
    """Else every stored run's id would change."""
    assert "patches" not in flowcut.FlowCut(tokens=4).as_dict()
    cut = flowcut.Cut("chosen", tokens=2, patches=(4, 1))
    assert flowcut.CutConfig(**json.loads(json.dumps(cut.as_dict()))) == cut


@pytest.mark.parametrize(("name", "stage"), [("flowcut", ENCODER), ("divprune", PROJECTOR), ("dart", DECODER)])
def test_a_cut_knows_its_stage(name: str, stage: Stage) -> None:
    cut = flowcut.Cut(name, tokens=9)
    assert stage_of(cut) is cut.stage is stage
    assert cut.by_flowcut == (name == "flowcut")
    assert set(METHODS[name].needs) <= set(stage.gathered())
    assert stage_of(None) is None
