"""The virtual filesystem: the one meaning behind three doors.

``core`` is the interface doors call; ``drive`` implements it over tree, cache and cloud; ``handles``, ``reads``,
``writes`` hold what is open; ``journal`` (a pure machine) and ``replay`` carry changes to the cloud; ``recovery``
puts things right after a crash. Knows no door. SEMANTICS.md and JOURNAL.md beside this file say what is promised.
"""
