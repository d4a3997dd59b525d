"""Floating-point operations of an utterance, two a multiply-add: matrix products and convolutions, nothing else.

They are those that cannot be left out: a step's forward pass starts at the lowest adapted stage, its backward pass ends
there, no frozen weight has a gradient. Attention's backward pass counts five products, one of which makes the scores
again, as both engines could store them.
"""

RATE = 16_000


def stages(config, seconds):
    """[(forward, input's gradient, weights' gradient)] from the signal upwards: `front` stages, then the layers."""
    samples = round(seconds * RATE)
    front = []
    if config["model_type"] == "whisper":
        width, layers, ffn = config["d_model"], config["encoder_layers"], config["encoder_ffn_dim"]
        frames = samples // 160
        for c_in, stride in ((config["num_mel_bins"], 1), (width, 2)):
            frames = -(-frames // stride)
            one = 2 * frames * width * 3 * c_in
            front.append((one, one, one))
    else:
        width, layers, ffn = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
        frames, c_in = samples, 1
        for c_out, kernel, stride in zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"]):
            frames = (frames - kernel) // stride + 1
            one = 2 * frames * c_out * kernel * c_in
            front.append((one, one, one))
            c_in = c_out
        projection = 2 * frames * c_in * width
        front.append((projection, projection, projection))
        groups, taps = config["num_conv_pos_embedding_groups"], config["num_conv_pos_embeddings"]
        positional = 2 * frames * width * taps * (width // groups)
        front.append((positional, positional, 0))
    linear = 2 * frames * (4 * width * width + 2 * width * ffn)
    product = 2 * frames * frames * width
    layer = (linear + 2 * product, linear + 5 * product, 0)
    head = 2 * frames * width * config["vocab_size"]
    return front, [layer] * layers + [(head, head, 0)]


def utterance(config, seconds, adapt, parameters, steps):
    """All of an utterance's operations, with `steps` steps on `parameters` if `adapt` is not "none"."""
    front, above = stages(config, seconds)
    full = sum(forward for forward, _, _ in front + above)
    if adapt == "none":
        return full
    feature = "feature" in parameters
    # wav2vec2's lowest layer norm is the projection's: it lies below the projection and the positional embedding.
    lowest = 0 if feature else (len(front) - 2 if config["model_type"] != "whisper" else len(front))
    moving = front[lowest:] + above
    again = sum(forward for forward, _, _ in moving)
    inputs = [gradient for _, gradient, _ in moving]
    if feature:
        inputs[0] = 0  # nobody asks for the signal's gradient
    weights = sum(gradient for _, _, gradient in moving) if feature else 0
    return full + steps * (again + sum(inputs) + weights)
