"""Kernels as Python and XLA call them."""
