"""Flax Linen networks. They know nothing of EM: each is a function of a residual and a hidden state."""
