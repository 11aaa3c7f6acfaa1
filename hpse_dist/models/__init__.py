"""Networks: the encoder, the decoder, heads and the attention they share."""
