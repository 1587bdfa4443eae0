"""`python -m gru_xp_conformance [torch numpy jax:cpu ...] [--quick] [--html F] [--json F] [--table]`."""

try:
    from .app import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing.name} is missing; install it: python -m pip install {missing.name}") from None

main()
