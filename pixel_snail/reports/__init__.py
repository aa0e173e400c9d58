"""Tables, comparisons and pictures for users."""
