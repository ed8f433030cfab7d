"""Real data: a manifest of what exists, one step that fetches into a cache, and loaders that only read that cache.

The loaders return numpy arrays and strings; nothing here imports torch.
"""
