"""What is said of a model whose vision encoder is not read (`FlowRecord.unread`)."""

from __future__ import annotations

NO_PLACES = (
    "Where each visual token lies on the picture is not known of this model, so no mask is drawn: they are numbered in "
    "the order in which the language model reads them."
)
