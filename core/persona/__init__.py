"""The persona monitor: how far what a model says lies along named directions, message by message."""
