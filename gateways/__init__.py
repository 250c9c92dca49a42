"""The doors: each translates one protocol to ``vfs.core`` and back, and holds no meaning of its own.

Doors do not know one another. What two of them share lies beside them: ``access`` (who may enter, over what) and
``sync_vfs`` (the core as blocking calls for the threads of server libraries).
"""
