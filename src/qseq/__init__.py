"""qseq learns from logged experience with value functions over sequences."""

__version__ = "0.1.0"
