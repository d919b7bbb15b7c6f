"""What the models of several rooms share."""
