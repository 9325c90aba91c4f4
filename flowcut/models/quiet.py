"""What all commands share: stdout and stderr belong to the answer and to our own sentences."""

from __future__ import annotations


def quiet_libraries() -> None:
    """No warnings and progress bars of the libraries below."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
