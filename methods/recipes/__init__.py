"""Recipes: how weights are trained. All train through `fit` and keep what they trained through `trained`.

``joint``: backbone and all exit heads together. ``plain``: the network without exits. ``two_stage``: heads on a frozen
network. ``gating``: gates that bypass blocks. ``tokens``: a decoder with exits. ``boosting``: ensembles of trees.
"""
