"""What both directions of a dialect share: how its JSON is read with tolerance, and its facts."""
