"""A request loop of our own on /dev/fuse: a fraction of the library's cost per request, any number of mounts in one
process, and requests of killed programs are given up.

``protocol`` is the kernel's format, ``device`` mounts, ``dispatch`` translates one request, ``loop`` reads and answers
them, ``session`` puts these behind the seam of ``gateways.fuse.session``.
"""
