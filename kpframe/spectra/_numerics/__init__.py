"""The kernels of the estimators: samplers, Krylov spaces, bases, error bars."""
