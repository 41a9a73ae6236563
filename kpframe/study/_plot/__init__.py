"""The figures of studies: each a function of recorded data, ``kpframe.plot.NAME``.

The convention, which every figure keeps:

- ``NAME(data, *, ax=None, **selection) -> Axes`` for a figure of one panel, and
  ``NAME(data, *, axes=None, **selection) -> np.ndarray`` of ``Axes`` for one of several. Axes that are not
  given are made, on a ``Figure`` of the function's own: no figure needs pyplot, and none shows itself.
- ``data`` is a dataset (``results.nc``, ``kpframe.study.compare_rules``), a tree as ``kpframe.open_run``
  gives it, or the folder of a run. ``selection`` names dims: ``network="GRU"``, ``step=[0, 100]``.
- The decorator ``figure`` reads ``data``, says which quantity to record where something is missing, and
  selects; what the body is given is a dataset. A file of figures imports ``look`` for how they look,
  ``source`` for that decorator and one another's not at all; its names go into ``kpframe/plot.py``.
"""
