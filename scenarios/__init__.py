"""The world a data plane is judged in: topology, the lab that builds it in namespaces, embedded DNS, checks."""
