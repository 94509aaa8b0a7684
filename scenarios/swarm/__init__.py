"""Docker's swarm mode as a testbed: real daemons, one per node, in a guest (docs/peers.md).

`engine` asks a daemon by its API, and `node` is a node with its daemons. `tasks` tells the manager what is wanted.
`image` is what the tasks run. `look` reads what was programmed. `testbed` joins them to what checks and trials use.
"""
