"""Ways to judge whether an explanation is right, or whether a feature has one."""
