"""Figures and a self-contained HTML page of a study's results."""
