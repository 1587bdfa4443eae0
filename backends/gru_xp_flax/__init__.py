"""Flax: the layer `RNN` over a `GRUCell`, run by gru_xp.

    gru_xp_flax.nnx.RNN      for flax.nnx.RNN
    gru_xp_flax.linen.RNN    for flax.linen.RNN

The cell, and so the parameters, are Flax's. Inside the call they are mapped to gru_xp's: Flax's cells have one bias
where cuDNN's equations have two that are added, and a gradient for both would count twice.
"""
