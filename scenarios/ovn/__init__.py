"""OVN, the virtual network of Open vSwitch, as a testbed: its daemons on every node (docs/peers.md).

`daemons` are those of a node and the central ones, and how they are told what is wanted. `fabric` attaches containers
to logical switches. `balancers` tells of services, as the plane of a lab does. `testbed` joins them.
"""
