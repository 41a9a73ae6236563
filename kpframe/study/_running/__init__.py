"""Carry out a study: build, train and record its cells, go on with what was ended."""
