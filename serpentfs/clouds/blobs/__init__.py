"""Blob stores: flat keys to bytes. ``base`` is the contract, ``files`` our driver for ``file://``, ``opendal``
everything else. A vault is written against the contract and may not assume a local disk."""
