"""Every pruning method: evidence in, ranks out. A new one is one function and one line in `registry.py`.

FlowCut itself, and its ablations, decide layer by layer in the vision encoder (`flowcut.py`). The others rank the
patches, and the T highest stay: once at the encoder's feature layer (`encoder.py`, `controls.py`), once behind the
projector (`projector.py`, of videos `video.py`), or after one or several layers of the language model (`decoder.py`,
`prior.py`). `coverage.py`, `quotas.py` and `approximation.py` hold methods of several of these stages. The registry
imports no torch, so that names can be checked at once.
"""

from flowcut._moved import names_from
from flowcut.criteria.evidence import Budget, DecoderEvidence, Evidence, highest
from flowcut.criteria.method import DecoderPlan, Method, Recipe
from flowcut.criteria.registry import METHODS, forget_method, known_method, methods, register_method
from flowcut.criteria.setting import Setting

__all__ = [
    "METHODS",
    "Budget",
    "DecoderEvidence",
    "DecoderPlan",
    "Evidence",
    "Method",
    "Recipe",
    "Setting",
    "forget_method",
    "highest",
    "known_method",
    "methods",
    "register_method",
]

MOVED = ("DART_DIFFERS", "FLOWCUT", "Joins", "OneShot", "SPARSE_DIFFERS", "STEPS_DIFFER")
__getattr__ = names_from(__name__, "flowcut.criteria.registry", "flowcut.criteria.method", only=MOVED)
