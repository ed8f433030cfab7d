"""What every method runs on, and no paper owns.

``multi_exit``, ``evaluate``: a backbone in stages with exits; `replay` on stored outputs, and `infer`, which skips.
``costs``, ``timing``, ``metrics``: multiply-accumulates counted from outside, seconds, qualities.
``examples``, ``passages``, ``queries``, ``pairs``, ``tasks``: the kinds of data, and where each comes from.
``exit_outputs``, ``stored_outputs``: what all exits say on given examples, and rules tried on it.
``weights``, ``content_hash``: the cache of trained weights, and what tells one training from another by its content.
``routing``: how samples go from one exit or member to the next.
``search``, ``pareto``: a search over designs, and which of them no other is better than.
``chance``: what answers reach that do not look at the input.
``method``, ``records``: the contract of a method, and the figures that it gives.
"""
