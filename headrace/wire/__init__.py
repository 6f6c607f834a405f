"""JSON dialects ↔ `headrace.types`: pure functions, no I/O. One file per dialect shape."""
