"""How fast bytes may move: throttle, adaptive limit, shared budget."""
