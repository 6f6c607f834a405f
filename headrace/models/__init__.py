"""Models as files: how a name becomes a folder that an engine loads. `catalog.prepare` is the way in."""
