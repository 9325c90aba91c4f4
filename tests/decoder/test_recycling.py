"""SparseVLM's recycling: against a slow derivation layer by layer, while decoding, in batches, and in what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import flowcut
from flowcut.criteria.decoder import raters, sparse_layers, step_tokens
from flowcut.decoder.answer_recording import AnswerRecording
from flowcut.decoder.recycling import noise_source, recycle
from tests import tiny
from tests.criteria.test_criteria_decoder import deep
from tests.decoder.test_language import GREEDY, padded, prompt
from tests.golden.test_peers import HERE, VISUAL, decoder32, read_under

SPAN = (3, 40)


def cut(tokens: int = 8, **settings: Any) -> flowcut.CutConfig:
    return flowcut.Cut("sparsevlm", tokens=tokens, recycling=True, **settings)


def slow_clusters(tokens: np.ndarray, noise: torch.Generator) -> list[list[int]]:
    """Density peaks, token by token: the members of each cluster, its centre first."""
    count, n = len(tokens) // 10 + 1, len(tokens)
    apart = np.array([[np.sqrt(((a - b) ** 2).sum() / len(a)) for b in tokens] for a in tokens])
    density = np.array([np.exp(-np.mean(np.sort(row)[:count] ** 2)) for row in apart])
    density += torch.rand(1, n, generator=noise)[0].double().numpy() * 1e-6
    lonely = [min((apart[i, j] for j in range(n) if density[j] > density[i]), default=apart.max()) for i in range(n)]
    centres = sorted(range(n), key=lambda i: -lonely[i] * density[i])[:count]
    clusters = [[centre] for centre in centres]
    for i in set(range(n)) - set(centres):
        clusters[int(np.argmin([apart[centre, i] for centre in centres]))].append(i)
    return clusters


def head_mean_attention(model: LlamaModel, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> np.ndarray:
    """float64 [L, L] of a layer whose input is [1, L, width]."""
    parts: Any = model.layers[layer]
    normed = parts.input_layernorm(hidden)
    query, key = (
        projection(normed).unflatten(-1, (-1, parts.self_attn.head_dim)).transpose(1, 2)
        for projection in (parts.self_attn.q_proj, parts.self_attn.k_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    logits = query @ key.mT * parts.self_attn.scaling
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    found: np.ndarray = logits.masked_fill(~causal, -torch.inf).softmax(-1)[0].mean(0).double().numpy()
    return found


def slow(model: LlamaModel, embedded: Tensor, start: int, n: int, tokens: int) -> tuple[list[list[int]], np.ndarray]:
    """Visual ids (-1: merged) after each step, and the last token's last hidden state."""
    noise, steps = torch.Generator().manual_seed(0), sparse_layers(len(model.layers))
    visual, text = embedded[0, start : start + n].double().numpy(), embedded[0, start + n :].double().numpy()
    asking = raters(visual, text) - len(text)  # counted from the end, which stays
    hidden, ids, after = embedded, list(range(n)), []
    for index, layer in enumerate(model.layers):
        positions = torch.arange(hidden.shape[1])[None]
        rotary = model.rotary_emb(hidden, positions)
        out = layer(hidden, position_ids=positions, position_embeddings=rotary, attention_mask=None)
        if index in steps:
            attention = head_mean_attention(model, index, hidden, rotary)[asking]
            score = attention[:, start : start + len(ids)].mean(axis=0)
            strongest = sorted(range(len(ids)), key=lambda i: -score[i])
            left = step_tokens(n, tokens, steps.index(index), len(steps))
            kept, gone = sorted(strongest[:left]), strongest[left:]
            best = out[0, [start + i for i in gone[: int(len(gone) * 0.3) + 1]]]
            clusters = slow_clusters(best.double().numpy(), noise)
            new = torch.stack([best[members].mean(dim=0) for members in clusters])
            behind = out[0, start + len(ids) :]
            out = torch.cat([out[0, :start], out[0, [start + i for i in kept]], new, behind])[None]
            ids = [ids[i] for i in kept] + [-1] * len(new)
            after.append(ids)
        hidden = out
    return after, model.norm(hidden)[0, -1].numpy()


def test_kept_and_merged_tokens_are_those_of_the_slow_one() -> None:
    """32 layers with random weights, the peers' own; merged tokens are ranked by the next step."""
    embedded = torch.from_numpy(np.load(HERE / "decoder32" / "inputs.npz")["inputs_embeds"])
    with torch.no_grad():
        steps, hidden = slow(decoder32(HERE), embedded, *VISUAL, 64)
    record, ours = read_under(HERE, cut(64))
    assert record.pruned_at_layer is not None
    pruned_at = record.pruned_at_layer[0]
    for layer, ids in zip(sparse_layers(32), steps, strict=True):
        still = np.flatnonzero((pruned_at < 0) | (pruned_at > layer))
        assert still.tolist() == [one for one in ids if one >= 0]
    np.testing.assert_allclose(ours, hidden, rtol=0, atol=1e-4)
    merged = sum(one < 0 for one in steps[-1])
    assert merged > 64 - len(record.kept(0)) > 0  # some were merged at an earlier step
    assert any(f"{merged} of the {len(steps[-1])} visual tokens" in note for note in record.notes)
    assert record.rows_after.shape[1] == 595 - 576 + len(steps[-1])
    plain, _ = read_under(HERE, flowcut.Cut("sparsevlm", tokens=64))
    assert plain.kept(0).tolist() != record.kept(0).tolist()


def test_twins_are_merged_into_one() -> None:
    """Of 34 pruned tokens the 11 best are merged into two: those of one place each, whatever the noise."""
    places = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    states = places[torch.arange(34) % 2]
    new, centres = recycle(states, torch.arange(34, 0, -1).double(), noise_source())
    assert sorted(new.round(decimals=3).tolist()) == [[0.0, 0.0], [5.0, 5.0]]
    assert (centres % 2).sort().values.tolist() == [0, 1]
    assert (centres < 11).all()


def test_decoding_equals_a_full_cut_prefill() -> None:
    model, ids = deep(), prompt(60, 0)
    with torch.no_grad(), flowcut.record_language(model, SPAN, cut(), instruction_end=60) as rec:
        out = model.generate(ids, **GREEDY, return_dict_in_generate=True, output_logits=True)
        kept = rec.record.kept(0)
        whole = model(out.sequences, use_cache=False).logits
        lengths = [out.past_key_values.get_seq_length(layer) for layer in range(8)]
    torch.testing.assert_close(whole[:, -7:-1], torch.stack(out.logits, dim=1), atol=2e-5, rtol=1e-4)
    assert rec.record.kept(0).tolist() == kept.tolist()
    assert lengths[0] == 65
    assert lengths[-1] > 60 - 40 + 8 + 5  # the merged go on beside the 8


def test_rows_of_a_padded_batch_are_independent() -> None:
    model = deep()
    prompts, spans = [prompt(60, 1), prompt(50, 2)], [(3, 40), (5, 30)]
    ids, mask = padded(prompts)
    shifted = [(60 - row.shape[1] + start, length) for row, (start, length) in zip(prompts, spans, strict=True)]
    with torch.no_grad(), flowcut.record_language(model, shifted, cut()) as rec:
        together = model.generate(ids, attention_mask=mask, **GREEDY, return_dict_in_generate=True, output_logits=True)
        record = rec.record
        for index, (row, span) in enumerate(zip(prompts, spans, strict=True)):
            rec.aim([span])
            alone = model.generate(row, **GREEDY, return_dict_in_generate=True, output_logits=True)
            for one, many in zip(alone.logits, together.logits, strict=True):
                torch.testing.assert_close(one[0], many[index], atol=1e-4, rtol=1e-4)
            assert rec.record.kept(0).tolist() == record.kept(index).tolist()


def test_keeping_all_is_the_stock_model_to_the_bit() -> None:
    model, ids = deep(), prompt(60, 0)
    with torch.no_grad():
        stock = model(ids).logits
        with flowcut.record_language(model, SPAN, cut(40)):
            assert torch.equal(model(ids).logits, stock)


def test_attention_to_a_merged_token_is_shown_at_its_centre() -> None:
    """Rows still sum to 1, and what the last layer shows is the kept tokens and the centres."""
    model, ids = deep(), prompt(60, 0)
    with torch.no_grad(), flowcut.record_language(model, SPAN, cut()) as rec:
        plain = model.generate(ids, **GREEDY)
        with AnswerRecording(model, torch.arange(3, 43), 60, rec) as looks:
            assert torch.equal(model.generate(ids, **GREEDY), plain)
    shown = looks.attention
    others = shown.first + shown.prompt_text + shown.answer_text
    np.testing.assert_allclose(np.nansum(shown.visual, axis=-1) + others, 1, atol=1e-5)
    rows = rec.record.rows_after[0]
    there = np.flatnonzero(~np.isnan(shown.visual[0, -1, 0]))
    assert there.tolist() == sorted(rows[(rows >= 3) & (rows < 43)] - 3)
    assert set(rec.record.kept(0).tolist()) < set(there.tolist())


def test_asked_of_a_whole_model(tmp_path: Any) -> None:
    model = flowcut.load(tiny.checkpoint(tmp_path))
    run = flowcut.ask(model, tiny.picture(), "What is in the picture?", cut(9), max_new_tokens=3)
    assert run.language_record is not None
    assert run.final_patch_ids is not None
    assert run.final_patch_ids.tolist() == run.language_record.kept(0).tolist()
    assert run.layer_tokens[-1] > run.prompt_tokens - tiny.N_PATCHES + 9
    assert run.title == "SparseVLM 9 (recycling)"
    assert any("version 1" in sentence for sentence in run.language_record.differs_from_release)
    assert any("merged from pruned ones" in note for note in run.notes + run.language_record.notes)
