"""A MEGA account, or a public MEGA link, as a cloud: spoken natively, from log-in to upload.

Knows the protocol and what the account holds; knows nothing of inodes, caches and doors.
"""
