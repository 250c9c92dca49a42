"""Clouds: drivers that speak nodes for a remote, and the blob stores that vaults keep their objects in.

Called by the tree's feed, the read path and the replay. Drivers know neither tree nor journal nor one another;
retry, deadlines and faults are decorators over the protocol in ``base``, not code inside drivers.
"""
