"""`python -m gru_xp_conformance [torch numpy jax:cpu ...] [--quick] [--html F] [--json F] [--table]`."""

from .app import main

main()
