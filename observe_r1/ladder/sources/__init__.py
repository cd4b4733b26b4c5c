"""Public datasets as sources of questions, grouped by kind: geometry, charts, science, mathematics, benchmarks."""
