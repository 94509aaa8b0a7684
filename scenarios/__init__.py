"""The worlds in which a data plane is judged: topology, the lab that builds it in namespaces, embedded DNS, checks."""
