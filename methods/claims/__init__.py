"""What each paper claims, tried on what was measured here: experiments about the methods, one module per paper.

A module named by the paper's key has ``claims(method, prepared, bench, curve)``, which returns an `Outcome` for each
claim that is tried. Rivals are imported here and nowhere else.
"""
