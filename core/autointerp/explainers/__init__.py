"""Ways to put into words what a feature stands for."""
