"""SerpentFS: an end-to-end encrypted cloud as if it were a local disk."""

__version__ = "0.1.0"
