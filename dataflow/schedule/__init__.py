"""The schedule model: steps of large networks with memory, by closed forms. No hardware reads its programs."""
