"""Models as files: turns references into folders that an engine loads. `catalog.prepare` is the entry."""
