"""What is compared: service-VIP data planes, each a mechanism at a placement."""
