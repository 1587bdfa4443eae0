"""What the first calls of a process cost: seconds of CPU time, with nothing compiled yet and with all of it kept.

python conformance/benchmarks/first_call.py [REPEATS]

Each figure is the median over fresh processes. Seconds depend on the clock, so that is measured beside them.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llvmlite.binding as llvm

PROGRAM = """
import sys, time
start = time.process_time()
import numpy as np
numpy = time.process_time()
import gru_xp
imported = time.process_time()
rng = np.random.default_rng(0)
x, *w = (rng.standard_normal(s, np.float32) for s in ((20, 8, 64), (384, 64), (384, 128), (384,), (384,)))
before = time.process_time()
if sys.argv[1] == "inference":
    gru_xp.gru_inference(x, ((gru_xp.CellParams(*w),),))
else:
    y, _, tape = gru_xp.gru_forward(x, ((gru_xp.CellParams(*w),),))
    gru_xp.gru_backward(tape, y)
called = time.process_time()
assert gru_xp.explain(x, ((gru_xp.CellParams(*w),),)).kernel == "cpu"
print(numpy - start, imported - numpy, called - before)
"""
#: multiplications each of which waits for the one before, in three cycles (seen: additions may take none)
CYCLES, MULTIPLICATIONS, LOOP = (
    3,
    1 << 28,
    """
define i64 @loop(i64 %count) {
entry:
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %product = phi i64 [ 3, %entry ], [ %more, %body ]
  %more = call i64 asm sideeffect "imulq $0, $0", "=r,0"(i64 %product)
  %next = add i64 %i, 1
  %again = icmp ult i64 %next, %count
  br i1 %again, label %body, label %done
done:
  ret i64 %more
}
""",
)


def gigahertz() -> float | None:
    """The clock of a busy core; None where it is not measured."""
    if not llvm.get_process_triple().startswith("x86_64"):
        return None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    engine = llvm.create_mcjit_compiler(
        llvm.parse_assembly(LOOP), llvm.Target.from_default_triple().create_target_machine()
    )
    loop = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(engine.get_function_address("loop"))
    loop(MULTIPLICATIONS // 8)
    start = time.process_time()
    loop(MULTIPLICATIONS)
    return CYCLES * MULTIPLICATIONS / (time.process_time() - start) / 1e9


def seconds(function: str, folder: Path) -> list[float]:
    """The figures of one process that keeps code in this folder."""
    environment = {**os.environ, "GRU_XP_CACHE_DIR": str(folder), "GRU_XP_NUM_THREADS": "1"}
    out = subprocess.check_output([sys.executable, "-c", PROGRAM, function], env=environment, text=True)
    return [float(word) for word in out.split()]


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    times: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(repeats):
        for function in ("inference", "training"):
            with tempfile.TemporaryDirectory() as folder:
                for state in ("cold", "warm"):
                    times.setdefault((function, state), []).append(seconds(function, Path(folder)))
    clock = gigahertz()
    print("clock " + ("not measured" if clock is None else f"{clock:.2f} GHz"))
    print(f"{'seconds of CPU time':24} {'import numpy':>14} {'import gru_xp':>14} {'first call':>14}")
    for (function, state), rows in times.items():
        figures = " ".join(f"{statistics.median(column):14.3f}" for column in zip(*rows, strict=True))
        print(f"{f'{function}, {state} cache':24} {figures}")
