"""What can be served: models, their source sets, and where the weights lie."""
