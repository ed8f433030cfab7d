"""Families of methods: each says once how to sweep, execute and check what its members share.

``exits``: one network with exit heads; a pure policy decides after each head.
"""
