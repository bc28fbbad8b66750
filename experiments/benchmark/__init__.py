"""How fast the papers' models train, on any device, and against PyTorch: `python -m experiments.benchmark`."""
