"""Sequences of operations at random on a running lab, and the model that says what may be seen after each of them."""
