"""A text encoder of Hugging Face with random weights, made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest

WIDTH = 12
WORDS = ("push", "pull", "the", "red", "green", "side", "puck", "of", "blue", "left", "right")


def write_text_encoder(folder: Path, kind: str = "bert", longest: int = 16, seed: int = 0) -> str:
    """Writes it and returns the name that `network.text.encoder` takes."""
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "[END]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]", model_max_length=longest
    )
    torch.manual_seed(seed)
    common = {"vocab_size": len(vocabulary), "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {**common, "hidden_size": WIDTH, "intermediate_size": 16}
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=longest))
    elif kind == "t5":
        model = transformers.T5Model(
            transformers.T5Config(vocab_size=len(vocabulary), d_model=WIDTH, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
        )
    else:
        text = {**sizes, "max_position_embeddings": longest, "eos_token_id": 2, "bos_token_id": 2, "pad_token_id": 0}
        vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return f"hf:{folder}"
