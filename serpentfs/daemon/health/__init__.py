"""What can be wrong on this machine, looked at from outside of any owner: one finding for each thing looked at.

Checks only look: nothing is made, changed or unlocked. ``serpentfs doctor`` puts them together; ``redaction`` is for
what of all that may be shown to strangers.
"""
