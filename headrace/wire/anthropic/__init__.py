"""The Messages API in Anthropic's dialect: reads requests and writes answers."""
