"""What happens outside the kernel under test: plan the work, choose a kernel, hand out jobs, gather their events.

Runs in the user's own Python. It never imports `bench.inside`; it starts it, on the host or in a guest.
"""
