"""EVS and VidCom2: by hand, against slow derivations in torch, and in every family that takes videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import flowcut
from flowcut.criteria import METHODS, Evidence
from flowcut.criteria.video import frame_quotas, typicality
from tests import invariants, tiny, tiny_qwen, tiny_video
from tests.families import test_frames as frames
from tests.families import test_qwen_vl as qwen
from tests.invariants import ranked

VIDEO = ["evs", "vidcom2"]


def evidence_of(video: np.ndarray) -> Evidence:
    """Of [F, n, width]."""
    count, per_frame, width = video.shape
    return Evidence(1, count * per_frame, features=video.reshape(1, -1, width), n_frames=count)


def test_evs_by_hand() -> None:
    """Two places: the first turns by a right angle in the second frame, the second in the third."""
    east, north = [2.0, 0], [0, 3.0]
    video = np.array([[east, east], [north, east], [north, north]])
    ranking = ranked(evidence_of(video), flowcut.Cut("evs", tokens=3))[0]
    np.testing.assert_allclose(ranking, [3, 3, 1, 0, 0, 1], atol=1e-12)
    assert METHODS["evs"].select(evidence_of(video), flowcut.Cut("evs", tokens=3)).tolist() == [[0, 1, 2]]
    with pytest.raises(
        flowcut.InvalidCut, match=r"first frame whole, 2 tokens, and 1 are to be kept: choose 2 or more"
    ):
        ranked(evidence_of(video), flowcut.Cut("evs", tokens=1))


def test_evs_drops_a_still_video_from_its_end() -> None:
    still = np.broadcast_to(np.random.default_rng(0).normal(size=(1, 6, 4)), (5, 6, 4))
    kept = METHODS["evs"].select(evidence_of(still + 0.0), flowcut.Cut("evs", tokens=6))[0]
    assert kept.tolist() == list(range(6))


@pytest.mark.parametrize("tokens", [7, 12, 27])
def test_evs_takes_the_least_similar(tokens: int) -> None:
    video = np.random.default_rng(tokens).normal(size=(4, 7, 5))
    now, before = torch.tensor(video[1:]), torch.tensor(video[:-1])
    change = 1 - torch.nn.functional.cosine_similarity(now, before, dim=-1)
    moved = change.flatten().argsort(descending=True, stable=True)[: tokens - 7] + 7
    kept = METHODS["evs"].select(evidence_of(video), flowcut.Cut("evs", tokens=tokens))[0]
    assert kept.tolist() == [*range(7), *sorted(moved.tolist())]


def slow_typicality(video: np.ndarray) -> tuple[list[list[float]], list[list[float]]]:
    tokens = torch.tensor(video)
    width = tokens.shape[-1]
    spread = tokens.reshape(-1, width).var(dim=0, unbiased=False)
    steady = sorted(range(width), key=lambda c: float(spread[c]))[: width // 2]
    own = torch.nn.functional.normalize(tokens[:, :, steady], dim=-1)
    of_video, of_frame = [], []
    for frame in own:
        centres = own.reshape(-1, len(steady)).mean(dim=0), frame.mean(dim=0)
        rows: tuple[list[float], list[float]] = ([], [])
        for token in frame:
            for centre, row in zip(centres, rows, strict=True):
                apart = float(((token - centre) ** 2).sum())
                row.append(sum(np.exp(-apart / (2 * 2.0**k)) for k in range(-3, 2)))
        of_video.append(rows[0])
        of_frame.append(rows[1])
    return of_video, of_frame


@pytest.mark.parametrize("tokens", [2, 5, 16, 30])
def test_vidcom2_keeps_what_is_least_typical(tokens: int) -> None:
    video = np.random.default_rng(tokens).normal(size=(5, 8, 6))
    of_video, of_frame = slow_typicality(video)
    for found, expected in zip(typicality(video), (of_video, of_frame), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    quotas = frame_quotas(-np.mean(of_video, axis=1), 8, tokens)
    kept = METHODS["vidcom2"].select(evidence_of(video), flowcut.Cut("vidcom2", tokens=tokens))[0].tolist()
    expected = []
    for frame, quota in enumerate(quotas.tolist()):
        both = [a + b for a, b in zip(of_video[frame], of_frame[frame], strict=True)]
        expected += sorted(8 * frame + place for place in sorted(range(8), key=both.__getitem__)[:quota])
    assert kept == expected
    assert len(kept) == tokens


@pytest.mark.parametrize("seed", range(10))
def test_frames_share_the_budget_exactly(seed: int) -> None:
    """As released, a frame's share is round(base (1 + p - mean p) n), give or take one that rounding leaves over."""
    draw = np.random.default_rng(seed)
    scores, tokens = draw.normal(size=6) / 50, int(draw.integers(1, 6 * 20))
    quotas = frame_quotas(scores, 20, tokens)
    assert quotas.sum() == tokens
    assert (quotas <= 20).all()
    assert (quotas >= (1 if tokens >= 6 else 0)).all()
    shares = torch.softmax(torch.tensor(scores) / 0.01, dim=0)
    released = (tokens / 6 * (1 + shares - shares.mean())).clamp(max=20).numpy()
    if released.max() < 20 and tokens >= 12:
        assert np.abs(quotas - released).max() < 1


def test_alike_frames_keep_alike_shares() -> None:
    assert frame_quotas(np.zeros(4), 9, 12).tolist() == [3, 3, 3, 3]
    assert frame_quotas(np.zeros(4), 9, 14).tolist() == [4, 4, 3, 3]
    assert frame_quotas(np.array([0.0, 0, 0, 1]), 9, 12).tolist() == [3, 2, 2, 5]  # 2.25 each, and 5.25


def build(kind: str) -> tuple[Any, Any]:
    """A model and a video that it is asked about."""
    if kind in tiny_qwen.KINDS:
        return tiny_qwen.model(kind), qwen.filmed(tiny_qwen.processor(kind))
    return tiny_video.model(kind), frames.asked(tiny_video.processor(kind), "@ what?")


@pytest.mark.parametrize("kind", [*tiny_video.KINDS, *tiny_qwen.KINDS])
@pytest.mark.parametrize("name", VIDEO)
def test_every_family_that_takes_videos(kind: str, name: str) -> None:
    model, inputs = build(kind)
    generate = qwen.generate if kind in tiny_qwen.KINDS else frames.generate
    is_video = inputs["input_ids"] == (6 if kind in tiny_qwen.KINDS else tiny_video.VIDEO)
    invariants.check_keeping_all(model, inputs, flowcut.Cut(name, tokens=5000), generate)
    with flowcut.prune(model) as session, torch.no_grad():
        session.prepare(inputs)
        whole = session.media[0]
    sources = whole.sources[whole.sources[:, 0] >= 0]
    per_frame = len(sources) // 3
    cut = flowcut.Cut(name, tokens=per_frame + 5)
    with flowcut.prune(model, cut) as session, invariants.counted_at_decoder_input(model) as seen, torch.no_grad():
        model(**session.prepare(inputs))
        (video,) = session.media
    assert seen == [int((~is_video).sum()) + cut.tokens + whole.separators]
    features = whole.features[whole.sources[:, 0] >= 0].double().numpy()
    evidence = Evidence(1, len(sources), features=features[None], n_frames=3)
    kept = METHODS[name].select(evidence, cut)[0]
    torch.testing.assert_close(video.sources[video.sources[:, 0] >= 0], sources[kept])
    assert session.record.differs_from_release == METHODS[name].differs
    assert session.ranking is not None
    assert session.final_patch_ids is not None
    assert session.ranking.shape == (session.record.n_patches,)
    assert session.ranking[session.final_patch_ids].min() >= session.ranking.min()


def test_after_evs_decoding_equals_a_full_prefill() -> None:
    model, inputs = build("VideoLlava")
    invariants.check_decoding(model, inputs, flowcut.Cut("evs", tokens=70), frames.generate)


@pytest.mark.parametrize("name", VIDEO)
def test_a_picture_is_refused_in_a_sentence(name: str) -> None:
    label = METHODS[name].label
    assert "LLaVA-1.5 takes none" in flowcut.refusals(tiny.llava())[name]
    with pytest.raises(flowcut.InvalidCut, match=f"{label} compares the frames of a video, and LLaVA-1.5 takes none"):
        flowcut.prune(tiny.llava(), flowcut.Cut(name, tokens=9))
    model, processor = tiny_video.model("LlavaNextVideo"), tiny_video.processor("LlavaNextVideo")
    assert name not in flowcut.refusals(model, video=True)
    sentence = flowcut.refusals(model)[name]
    with flowcut.prune(model, flowcut.Cut(name, tokens=9)) as session, pytest.raises(flowcut.InvalidCut) as caught:
        session.prepare(frames.pictured(processor, "@ what?"))
    assert str(caught.value) == sentence
