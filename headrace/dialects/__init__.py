"""Facts of each dialect that reading answers and writing them share, and tolerant reading of JSON."""
