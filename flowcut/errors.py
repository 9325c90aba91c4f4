"""The errors a person may meet: each message is one sentence that says what was got, what is allowed, what to do."""


class FlowCutError(ValueError):
    """Something handed to flowcut cannot be used; `str(error)` is fit to be shown to the person who asked."""


class InvalidCut(FlowCutError):
    """A pruning configuration that cannot be carried out."""


class InvalidPicture(FlowCutError):
    """A picture that cannot be opened or is of no use to a vision encoder."""


class UnknownFormat(InvalidPicture):
    """A file that is no picture of any format that is read."""


class InvalidQuestion(FlowCutError):
    """A question that cannot be put to a model."""


class InvalidRecord(FlowCutError):
    """A record or run file that is not one of ours, is damaged, or is of another version."""


class ModelNotLoaded(FlowCutError):
    """A model that is not supported, not complete, or cannot be reached."""


class NoRoom(ModelNotLoaded):
    """A model whose weights are larger than the memory that is free."""
