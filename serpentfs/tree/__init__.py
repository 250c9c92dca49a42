"""The tree: what the drive looks like, kept in SQLite with sealed names.

``names`` seals, ``store`` owns the database (entries, nodes, staged contents, journal rows, door records), ``feed``
applies what the cloud reports. Knows no door and no cache; asks the journal only "is something pending here?".
"""
