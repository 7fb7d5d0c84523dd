"""Writing text token by token: what is asked for, how tokens are chosen, and the eager engine with its cache."""
