"""The command line: one module per group of commands.

Owns words, options, what is printed and the exit codes. Reads options into plain values and hands them to
``serpentfs.daemon`` (for whatever needs an owner) or to a cloud; holds no meaning of its own. Modules that cost
time or threads to import are imported by the command that needs them, never at the top.
"""
