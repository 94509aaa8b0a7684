"""The things that are compared: service-VIP data planes. Each is a mechanism at a placement."""
