"""Data sets: each a pure function of (source, index)."""
