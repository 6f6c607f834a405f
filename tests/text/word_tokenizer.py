"""The tokenizer of an encoder that knows a few words."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "wheel", "turn", "##s", "."]
CLS, SEP = 2, 3


def write_word_tokenizer(folder: Path) -> Path:
    """A BERT tokenizer; as published, it pads and truncates to 4 tokens."""
    library = Tokenizer(models.WordPiece({word: id for id, word in enumerate(WORDS)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(WORDS[:4])
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    library.enable_truncation(4)
    library.enable_padding(length=4)
    library.save(str(folder / "tokenizer.json"))
    return folder
