"""The kernels: forward and backward passes, the tiles of their products and what is computed between these."""
