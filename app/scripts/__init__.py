"""What makes the stored examples of the first screen."""
