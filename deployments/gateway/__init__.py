"""The front door: HTTP in front of every model's application."""
