"""What is shown to people: tables, comparisons, pictures."""
