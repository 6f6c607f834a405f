"""Between text and tokens: templates, tokenizer, detokenizer, stop strings. After loading, it does no I/O."""
