"""A run's parts put together, and what it writes down and resumes from."""
