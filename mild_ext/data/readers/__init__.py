"""Readers of data sets, a file for each kind; ``sources`` knows them by name."""
