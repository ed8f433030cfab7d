"""What runs, checks and compares methods, which it knows by their contract alone.

``registry`` finds them, ``runner`` runs one, ``smoke`` all, ``bench`` and ``track`` make and read the leaderboard,
``conformance`` holds the rules that every method keeps, ``dependencies`` says which code a result depends on.
"""
