"""Benchmarks: what linearizing and products cost, beside training steps, other packages and the machine."""
