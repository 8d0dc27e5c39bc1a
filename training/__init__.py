"""The recipe of the embedded model: pictures and captions, autoencoder, text encoder, U-Net.

Run or resume all of it with ``python -m training`` (see ``training/README.md``).
"""
