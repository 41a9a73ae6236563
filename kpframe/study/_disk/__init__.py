"""The folder of a run and its files, which appear whole or not at all."""
