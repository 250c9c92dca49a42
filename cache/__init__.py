"""The decrypting block cache: memory and sealed disk, one fetch per block, read-ahead.

Called by the vfs read path with a fetch function; knows no cloud, no tree, no journal. CACHE.md says how budgets,
slots and flights hang together. Blocks are named by (content id, block index): contents never change.
"""
