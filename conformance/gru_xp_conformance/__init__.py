"""The judge of gru_xp: is this backend, device or kernel right, and where not?

    python -m gru_xp_conformance [torch numpy jax:cpu ...] [--quick] [--html F] [--json F] [--table]
    GRU_XP_BACKEND=torch python -m pytest --pyargs gru_xp_conformance

`reference` is what everything is compared with; `cases`, `laws` and `conversion` say what is compared; `tolerance` how
near it has to be; `mutants` are broken on purpose, and prove that the suite sees it.
"""

from .cases import GROUPS, Case, all_cases
from .judge import Judge, MismatchError, NotRunError, Target
from .matrix import Outcome, Result, run, targets

__all__ = [
    "GROUPS",
    "Case",
    "Judge",
    "MismatchError",
    "NotRunError",
    "Outcome",
    "Result",
    "Target",
    "all_cases",
    "run",
    "targets",
]
