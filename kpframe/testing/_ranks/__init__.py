"""Checks on several ranks of this machine: the processes, the cases, and what is compared."""
