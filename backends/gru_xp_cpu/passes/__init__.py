"""The computation: forward and backward passes, their products in tiles, and the gates between the products."""
