#!/usr/bin/env python3
"""Converts all-MiniLM-L6-v2 to GGUF: weights in F16; norms, biases, positions and token types in F32.

    minilm_to_gguf.py model.safetensors vocab.txt OUT.gguf

The same inputs give the same bytes, so that the catalogue can pin the outcome's checksum.
Needs the packages gguf, numpy and safetensors; fetch.py runs it in an environment that has them.
"""

import sys
from pathlib import Path

import gguf
import numpy
from safetensors.numpy import load_file

LAYERS = 6
CONTEXT = 512
EMBEDDING = 384
FEED_FORWARD = 1536
HEADS = 12
NORM_EPSILON = 1e-12
VOCABULARY = 30522

EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
STAYS_F32 = ("position_embd.weight", "token_types.weight")


def names():
    """Every tensor's name in the safetensors file and in GGUF, in the order they are written."""
    pairs = dict(EMBEDDINGS)
    for layer in range(LAYERS):
        for theirs, ours in LAYER.items():
            pairs[f"encoder.layer.{layer}.{theirs}"] = f"blk.{layer}.{ours}"
    for theirs, ours in pairs.items():
        if ours.endswith(".weight"):
            yield theirs, ours
        else:
            yield f"{theirs}.weight", f"{ours}.weight"
            yield f"{theirs}.bias", f"{ours}.bias"


def narrow(name, tensor):
    """F16 for matrices, F32 for what is small and sensitive."""
    stays = name in STAYS_F32 or name.endswith((".bias", "_norm.weight"))
    return tensor.astype(numpy.float32 if stays else numpy.float16)


def spell(word):
    """llama.cpp's spelling of WordPiece: a word's beginning is marked, not its continuation."""
    if is_special(word):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def is_special(word):
    return word.startswith("[") and word.endswith("]")


def type_of(word):
    if word == "[UNK]":
        return gguf.TokenType.UNKNOWN
    if word.startswith("[unused"):
        return gguf.TokenType.UNUSED
    return gguf.TokenType.CONTROL if is_special(word) else gguf.TokenType.NORMAL


def add_shape(writer):
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(NORM_EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def add_vocabulary(writer, words):
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spell(word) for word in words])
    writer.add_token_types([type_of(word) for word in words])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))


def convert(weights, vocabulary, target):
    tensors = load_file(weights)
    words = Path(vocabulary).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(words) != VOCABULARY:
        sys.exit(f"error: {vocabulary}: {len(words)} words, expected {VOCABULARY}")
    writer = gguf.GGUFWriter(target, "bert")
    add_shape(writer)
    add_vocabulary(writer, words)
    for theirs, ours in names():
        if theirs not in tensors:
            sys.exit(f"error: {weights}: no tensor {theirs}")
        writer.add_tensor(ours, narrow(ours, tensors[theirs]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    convert(*sys.argv[1:])
