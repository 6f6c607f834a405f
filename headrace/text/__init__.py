"""Between text and tokens: templates, tokenizer, detokenizer, stop strings. Pure values, no I/O past
loading.
"""
