"""Results that open, and modelled energy."""
