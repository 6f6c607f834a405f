"""Answers in a prescribed form: schemas and grammars become masks of the tokens that may come next."""
