"""Run, or resume, the whole recipe: ``python -m training``. Hours on two CPU cores."""

from __future__ import annotations

import argparse
import copy
import logging
import math
from pathlib import Path

from training.autoencoder import train_autoencoder, train_decoder
from training.pictures import fetched_emoji, save_sample
from training.pipeline import assemble, contact_sheet, halfway_sheet, write_log
from training.sources import ANNOTATIONS, DERIVED, TEACHER, WORDNET
from training.text_encoder import (
    caption_texts,
    near_words,
    sample_texts,
    train_text_encoder,
    wordnet_lemmas,
    wordnet_texts,
)
from training.tokenizer import emoji_names, read_emoji
from training.unet import (
    average,
    build,
    encode_pictures,
    load_fitting,
    picture_set,
    taught,
    train_unet,
)


def main() -> None:
    """Every stage keeps its checkpoints in ``--work`` and starts from them when run again."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("_training"), help="checkpoints, caches")
    parser.add_argument("--out", type=Path, default=Path("data/emoji-diffusion"))
    parser.add_argument("--start", type=Path, help="a model whose U-Net's weights are gone on from")
    parser.add_argument("--autoencoder-steps", type=int, default=1600)
    parser.add_argument("--decoder-steps", type=int, default=1400)
    parser.add_argument("--text-encoder-steps", type=int, default=3500)
    parser.add_argument("--unet-steps", type=int, default=13_500)
    parser.add_argument("--even-steps", type=int, default=9500, help="of its second stage")
    parser.add_argument("--taught-steps", type=int, default=10_000, help="of its third stage")
    parser.add_argument("--texts", type=int, default=140_000, help="of WordNet, for the encoder")
    parser.add_argument("--scenes", type=int, default=8000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work, sources = options.work, options.work / "sources"

    emoji = fetched_emoji(sources)
    logging.info("%d emoji", len(emoji))
    save_sample(emoji, options.out.parent / "emoji-sample")
    autoencoder = train_autoencoder(emoji, work / "autoencoder", options.autoencoder_steps)

    sentences = sample_texts(wordnet_texts(sources / WORDNET), options.texts)
    texts = sentences + caption_texts(emoji, 30_000)
    text_encoder, tokenizer, kept = train_text_encoder(
        sources / TEACHER, texts, work / "text_encoder", options.text_encoder_steps
    )
    logging.info("the token table keeps %.3f of the teacher's variance", kept)

    lemmas = wordnet_lemmas(sources / WORDNET)
    emoji = near_words(sources / TEACHER, emoji, lemmas, work / "near_words.json")
    pictures = picture_set(len(emoji), options.scenes)
    latents = encode_pictures(autoencoder, emoji, pictures, work / "latents.safetensors")
    scaling = 1 / float(latents.std())
    unet = build()
    if options.start:
        file = options.start / "unet" / "diffusion_pytorch_model.safetensors"
        logging.info("%d tensors are gone on from", load_fitting(unet, file))
    seen = (emoji, pictures, latents * scaling, text_encoder, tokenizer)
    unet = train_unet(*seen, work / "unet", options.unet_steps, start=unet)
    unet = train_unet(
        *seen,
        work / "unet_even",
        options.even_steps,
        learning_rate=6e-4,
        start=unet,
        gamma=math.inf,
        swapped=0.25,
    )
    names, alone = [one.name for one in emoji], latents[: len(emoji)] * scaling
    last = train_unet(
        *seen,
        work / "unet_taught",
        options.taught_steps,
        learning_rate=8e-4,
        start=copy.deepcopy(unet),
        gamma=math.inf,
        swapped=0.25,
        taught=taught(text_encoder, tokenizer, names, alone, lemmas, sentences),
    )
    average(unet, last)
    train_decoder(autoencoder, emoji, work / "decoder", options.decoder_steps)
    assemble(autoencoder, text_encoder, tokenizer, unet, scaling, options.out)
    read_emoji(options.out, emoji_names(sources / ANNOTATIONS, sources / DERIVED))
    write_log(work, options.out, kept)
    contact_sheet(options.out, options.out / "contact_sheet.png")
    halfway_sheet(options.out, options.out / "halfway.png")


if __name__ == "__main__":
    main()
