"""Which operations make sense now: a sequence has no others. What may be seen after one is the model's matter."""

from __future__ import annotations

from scenarios.explore import operations as do
from scenarios.explore.model import Flow, Model
from scenarios.explore.operations import BACKENDS, AnyOperation


def makes_sense(operation: AnyOperation, model: Model, *, hairpins: bool = True) -> bool:
    """Return True if the operation makes sense now.

    Without `hairpins` a backend calls no service: the plane needs the VIP to be an address of the container.
    """
    if isinstance(operation, do.Opening):
        may = hairpins or operation.client not in BACKENDS or operation.to in BACKENDS
        return may and model.lives(operation.client) and operation.client != operation.to and _free(operation, model)
    if isinstance(operation, do.Using):
        flow = model.flows.get(operation.flow)
        return flow is not None and not flow.over and _may_send(operation, flow, model)
    return _may_change(operation, model)


def _free(operation: do.Opening, model: Model) -> bool:
    """Return True if the last flow of the number is over, and has a port that this client can use again."""
    last = model.flows.get(operation.flow)
    if last is None or not operation.again:
        return not operation.again if last is None else last.over
    # What waits for an address that nobody has may be sent later, and be taken for the new flow's.
    waits = last.to != operation.to and last.to in model.unknown()
    return last.over and (last.client, last.udp) == (operation.client, operation.udp) and not waits


def _may_send(operation: do.Using, flow: Flow, model: Model) -> bool:
    client = operation.by == "client"
    if flow.udp and isinstance(operation, do.Speak):  # the server has one socket, and answers once it has been asked
        return client or (bool(flow.backend) and flow.backend not in model.down)
    if flow.udp:
        return client and isinstance(operation, do.Close)
    return operation.by not in flow.closed and (client or not flow.gone)


def _may_change(operation: AnyOperation, model: Model) -> bool:
    match operation:
        case do.Create(service=service):
            return service not in model.services
        case do.Delete(service=service):
            return service in model.services
        case do.Add(service=service, backend=backend):
            return service in model.services and not model.services[service].get(backend)
        case do.Remove(service=service, backend=backend):
            return backend in model.services.get(service, {}) and len(model.services[service]) > 1
        case do.Drain(service=service, backend=backend):
            return bool(model.services.get(service, {}).get(backend))
        case do.Stop(backend=backend) | do.Crash(backend=backend):
            return backend not in model.down
        case do.Start(backend=backend):
            return model.down.get(backend) == "stopped"
        case do.Restore(backend=backend):
            return model.down.get(backend) == "crashed"
    return True
