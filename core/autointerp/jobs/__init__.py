"""Jobs: explaining and scoring whole SAEs, kept in a file so that nothing is done or paid for twice."""
