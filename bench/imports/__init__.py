"""Files that describe a cluster of somebody's own, read as a scenario.

A reader knows one kind of file, and finds nodes, networks and services in it (found.py). What cannot be carried over
becomes a note, with its line. The scenario is made of what all files tell together (making.py).
"""
