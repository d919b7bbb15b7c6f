"""Steps of large networks run by the schedule model."""
