"""These modules make arrays when they are imported, before the fixture of all tests is run."""

from __future__ import annotations

import jax

jax.config.update("jax_enable_x64", True)
