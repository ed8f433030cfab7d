"""The methods: one file per paper in `papers/`, everything common to them in the parts beside it.

Importing this package loads neither torch nor numpy; `registry.get(KEY)` imports the one method that is asked for.
"""

GROUP = "eelit.methods"
"""Entry points by which other packages offer methods."""
