"""Find wrong labels by watching how each sample is learned.

The public names; see README.md for a ten-line example.
"""

from importlib.metadata import version

__version__ = version("mild_ext")
