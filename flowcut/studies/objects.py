"""Objects as the unit of a knock-out: what an answer loses with a whole object, in the picture or in the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flowcut.criteria.positions import Positions
from flowcut.errors import FlowCutError
from flowcut.generation.ask import ask
from flowcut.media.picture import Picture, open_picture
from flowcut.models.loading import VisionLanguageModel
from flowcut.records.studies import ObjectKnockOut
from flowcut.settings import Generation
from flowcut.studies.scorer import AnswerScorer, checked_set


def knock_out_objects(
    model: VisionLanguageModel,
    image: Any,
    question: str,
    answer_ids: Sequence[int],
    objects: Mapping[str, tuple[Any, Sequence[int] | np.ndarray]],
    *,
    settings: Generation | None = None,
    positions: Positions = "kept",
) -> Iterator[ObjectKnockOut]:
    """The answer without each object: asked about a picture that never showed it, and with its patches left out.

    The first is the cause in the world: the picture is encoded anew, and nothing of the object is left in any token.
    The second takes its patches from the language model alone: what they gave to others inside the encoder stays.

    Args:
        model: from `flowcut.load`; image and question as in `flowcut.ask`.
        answer_ids: the full answer's token ids.
        objects: by name the same picture without the object (a drawn scene: `scenes.draw(seed, without=place)`), and
            the ids of the patches that show it in the picture itself.
        settings: how to generate, system prompt included; None: greedy.
        positions: of the tokens that stay when patches are left out.

    Raises:
        FlowCutError: this model's visual tokens are not its patches, a picture is of another size, or patches are not
            there.
    """
    settings = settings or Generation()
    scorer = AnswerScorer(model, image, question, answer_ids, settings.system)
    ids = np.arange(scorer.n_patches)
    shown = {name: _checked(name, scorer, *one) for name, one in objects.items()}
    full = float(scorer.score([ids], positions).log_odds[0])
    for name, (bare, patches) in shown.items():
        without_object = AnswerScorer(model, bare, question, answer_ids, settings.system).score([ids], positions)
        without_patches = scorer.score([np.setdiff1d(ids, patches)], positions)
        yield ObjectKnockOut(
            name=name,
            patch_ids=patches,
            answer=ask(model, bare, question, settings=settings, record=False).answer,
            full=full,
            without_object=float(without_object.log_odds[0]),
            without_patches=float(without_patches.log_odds[0]),
            flips_without_object=not without_object.exact_match[0],
            flips_without_patches=not without_patches.exact_match[0],
            positions=positions,
        )


def _checked(name: str, scorer: AnswerScorer, bare: Any, patches: Any) -> tuple[Picture, np.ndarray]:
    picture = open_picture(bare)
    if picture.size != scorer.picture.size:
        raise FlowCutError(
            f"The picture without {name!r} is {picture.size[0]} x {picture.size[1]} pixels, the picture itself "
            f"{scorer.picture.size[0]} x {scorer.picture.size[1]}: give the same picture without the object."
        )
    return picture, checked_set(patches, scorer.n_patches)
