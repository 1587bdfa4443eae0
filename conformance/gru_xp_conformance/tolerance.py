"""How far from the reference a result may be: all numbers of that kind stand here and nowhere else.

    max|got - ref| <= c * max(max|plain - ref|, eps * max|ref|, tiny)

`plain` is the plain path on NumPy in the same dtype, so the bound follows the case: a long sequence or saturated gates
widen it by what they really cost. eps is the rounding unit of the dtype and tiny its smallest normal number; libraries
differ in whether they keep anything smaller. c is measured: see `measure.py` and `conformance/results/tolerance.json`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["C", "EPS", "FLIPS", "OF_A_MULTIPLE", "OF_REFERENCE", "STEP", "TINY", "TWO_RESULTS", "bound", "unit"]

EPS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"bfloat16": 2.0**-126, "float16": 2.0**-14, "float32": 2.0**-126, "float64": 2.0**-1022}

#: the worst error measured is at most half of this, on every backend, device and kernel in conformance/results
C = {"bfloat16": 8.0, "float16": 4.0, "float32": 16.0, "float64": 16.0}

#: int8 activations over a whole sequence: one rounding that is decided otherwise moves the argument of a gate by
#: max|W| * m / 127, m being the largest of the row that is rounded, and a state by no more; so many may act at once
FLIPS = 2.0

#: how far a weight of int8, divided by its scale in float32, may be from a whole number
OF_A_MULTIPLE = 1e-4

#: two results that may each be one bound away from the truth may be two bounds apart
TWO_RESULTS = 2.0

#: how near the reference has to be to torch.nn.GRU in float64 and to derivatives by complex steps
OF_REFERENCE = {"rtol": 1e-11, "atol": 1e-13}

#: of a complex step: nothing is subtracted, so it may be as small as one likes
STEP = 1e-30


def unit(plain_error: float, ref: npt.NDArray[Any], dtype: str) -> float:
    """The measured baseline: what an error is a ratio of. `ref` may hold NaN and infinity, which do not count."""
    finite = ref[np.isfinite(ref)]
    largest = float(np.max(np.abs(finite), initial=0.0))
    return max(plain_error, EPS[dtype] * largest, TINY[dtype])


def bound(plain_error: float, ref: npt.NDArray[Any], dtype: str, *, results: float = 1.0) -> float:
    """The largest error that passes."""
    return results * C[dtype] * unit(plain_error, ref, dtype)
