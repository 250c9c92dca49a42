"""The owner process of a remote: composition root, control socket, readiness, signals.

Wires store, cloud, drive and doors together and keeps them alive in one nursery. Knows every layer below and
none of their rules; the command line is its only caller.
"""
