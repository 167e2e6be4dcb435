"""Texts as vectors: by their words (TF-IDF, with scikit-learn), or by a Hugging Face encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Most words and pairs of words that texts are told apart by.
MOST_WORDS = 4096
#: Memory for all texts; the number of words is what fits in it.
MEMORY_LIMIT = 2**30
#: Length of every vector that is not 0. A layer's initial weights expect entries of about 1 in size, and a
#: text has tens of words.
NORM = 8.0
#: Tokens that an encoder reads of a text, and texts it reads at a time.
MOST_TOKENS, BATCH = 256, 32

_NEEDS = "reading text needs scikit-learn: pip install 'mild_ext[text]'"


def read_texts(
    texts: Sequence[str], columns: Sequence[str], encoder: str | None
) -> tuple[Tensor, dict[str, Any], list[str]]:
    """Vectors of texts, by an encoder where one is named, else by their words.

    Args:
        texts: N texts.
        columns: that they were joined from; part of the encoding.
        encoder: as for `embed_texts`.

    Returns:
        float32 ``[N, features]``; the encoding, for `apply_texts`; and messages.
    """
    messages = []
    empty = sum(not text for text in texts)
    if empty:
        messages.append(f"{empty} of {len(texts)} texts are empty")
    if encoder is None:
        inputs, encoding, more = encode_texts(texts)
        return inputs, encoding | {"columns": list(columns)}, messages + more
    inputs = embed_texts(texts, encoder)
    mean, deviation = inputs.mean(0), inputs.std(0, correction=0)
    encoding = {
        "kind": "encoder",
        "columns": list(columns),
        "encoder": encoder,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
    }
    return _standardized(inputs, encoding), encoding, messages


def apply_texts(texts: Sequence[str], encoding: Mapping[str, Any]) -> Tensor:
    """Vectors float32 ``[N, features]`` of further texts, by an encoding of `read_texts`."""
    if encoding["kind"] == "words":
        return apply_words(texts, encoding)
    return _standardized(embed_texts(texts, encoding["encoder"]), encoding)


def _standardized(vectors: Tensor, encoding: Mapping[str, Any]) -> Tensor:
    """A feature that was the same in all texts of the run is 0."""
    mean, deviation = torch.tensor(encoding["mean"]), torch.tensor(encoding["deviation"])
    return (vectors - mean) / torch.where(deviation > 0, deviation, math.inf)


def encode_texts(texts: Sequence[str]) -> tuple[Tensor, dict[str, Any], list[str]]:
    """TF-IDF of words and pairs of words: logarithmic counts, weighted by rarity, each text of length `NORM`.

    Args:
        texts: N texts.

    Returns:
        float32 ``[N, words]``; the encoding, for `apply_words`; and a message.

    Raises:
        ValueError: no word occurs in two texts.
        ImportError: scikit-learn is missing.
    """
    most = max(256, min(MOST_WORDS, MEMORY_LIMIT // (4 * max(1, len(texts)))))
    try:
        vectorizer = _vectorizer(max_features=most, min_df=2)
        matrix = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(
            f"no word of two letters or more occurs in two of the {len(texts)} texts: is this the column of the "
            "texts, or one of names or numbers?"
        ) from error
    words = vectorizer.get_feature_names_out().tolist()
    encoding = {"kind": "words", "words": words, "weights": vectorizer.idf_.tolist()}
    vectors = torch.from_numpy(matrix.toarray().astype(np.float32)) * NORM
    return vectors, encoding, [f"text by {len(words)} words and pairs of words (TF-IDF)"]


def apply_words(texts: Sequence[str], encoding: Mapping[str, Any]) -> Tensor:
    """Vectors float32 ``[N, words]`` of texts, by an encoding."""
    vectorizer = _vectorizer(vocabulary={word: k for k, word in enumerate(encoding["words"])})
    vectorizer.idf_ = np.array(encoding["weights"])
    return torch.from_numpy(vectorizer.transform(texts).toarray().astype(np.float32)) * NORM


def _vectorizer(**options: Any) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError(_NEEDS) from error
    return TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode", **options
    )


def embed_texts(texts: Sequence[str], encoder: str) -> Tensor:
    """The mean of an encoder's last hidden states over each text's tokens.

    Args:
        texts: N texts, of which the first `MOST_TOKENS` tokens are read.
        encoder: name on the Hugging Face hub, or a folder; its code is never run.

    Returns:
        float32 ``[N, features]``.

    Raises:
        ImportError: Transformers is missing.
        ValueError: there is no such encoder.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            "an encoder needs Transformers: pip install 'mild_ext[transformers]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = AutoModel.from_pretrained(encoder).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the encoder {encoder} cannot be loaded: {reason}") from error
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            )
            hidden = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(hidden)
            parts.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
    return torch.cat(parts).float()
