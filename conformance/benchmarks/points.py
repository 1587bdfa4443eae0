"""The sizes at which the CPU is measured: steps, batch, input size, hidden size, layers, directions."""

from gru_xp_conformance.timing import Size

__all__ = ["POINTS"]

POINTS = {
    "step": Size(1, 1, 32, 64),
    "rnnoise": Size(100, 1, 90, 96),
    "seq": Size(100, 1, 64, 128),
    "seq512": Size(200, 1, 512, 512),
    "batch8": Size(100, 8, 128, 256),
    "batch32": Size(50, 32, 256, 256),
    "batch64": Size(100, 64, 512, 512),
    "batch32-1024": Size(50, 32, 1024, 1024),
    "bidirectional": Size(50, 16, 128, 256, 2, 2),
}
