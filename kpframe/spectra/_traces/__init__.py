"""The trace estimators, a file a published method.

Each is a function of a ``Sampler`` and a budget: it draws probes, spends at most so many products of the
operator and returns the value and its standard error. ``trace`` knows them by name.
"""
