"""Building and running benches; knows nothing of SAT."""
