"""Compare two GRUs, each run by the runtime of its own format, and say where they first differ and why."""

from .compare import Case, Parting, Verdict, verify
from .sides import Inputs, Side, is_finite, random_inputs, side_of

__all__ = ["Case", "Inputs", "Parting", "Side", "Verdict", "is_finite", "random_inputs", "side_of", "verify"]
