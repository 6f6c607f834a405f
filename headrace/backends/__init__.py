"""Where answers come from: each module turns a neutral request into neutral events."""
