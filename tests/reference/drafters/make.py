#!/usr/bin/env python3
"""Compute in PyTorch what small drafters make of random states, for src/heads/reference.rs.

    python make.py OUT_DIR

writes OUT_DIR/<system>.json for each system below: the sections `heads.architecture` and `heads.bias`, the backbone's shape, every parameter by
the name that it has here, the backbone's states of a text, and what follows from them: the heads' states, and the gradients
of `sum(coefficients * states)`. All of it is computed in float64, from the formulas of the papers, and rounded to 9 digits.
"""
import json, math, os, sys
import torch

torch.set_default_dtype(torch.float64)
D, HEADS, KV, WIDTH, INNER, EPSILON, THETA = 12, 3, 1, 4, 10, 1e-5, 10000.0
TEXT, BLOCK, VOCABULARY, RANK = 7, 4, 9, 5
# The places of the last tokens before the blocks.
BEFORE = [1, 4, 6]


class Parameters(dict):
    """Random parameters, made as they are asked for."""

    # Those of the backbone, for networks that read what it makes with them.
    frozen = None

    def matrix(self, name, rows, columns):
        return self.setdefault(name, (torch.randn(rows, columns) / math.sqrt(columns)).requires_grad_())

    def vector(self, name, size, around=0.0):
        made = (around + 0.3 * torch.randn(size)).requires_grad_()
        return self.setdefault(name, made)


def linear(parameters, name, x, outputs):
    return x @ parameters.matrix(f"{name}.weight", outputs, x.shape[-1]).T


def rms_norm(parameters, name, x):
    weight = parameters.vector(f"{name}.weight", x.shape[-1], around=1.0)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPSILON) * weight


def rotate(x, positions):
    """Rotates the halves of each head of x [rows, heads, WIDTH]."""
    frequencies = THETA ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    angles = positions[:, None, None] * frequencies
    a, b = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def by_head(parameters, name, x, heads, norm):
    x = linear(parameters, f"{name}_proj", x, heads * WIDTH).view(-1, heads, WIDTH)
    return rms_norm(parameters, norm, x) if norm else x


def convolve(parameters, name, side, x, said, kernel, group):
    """A convolution over the rows before each, with a kernel for every number and what rows say for every group."""
    base = parameters.matrix(f"{name}.base_kernel", 2 * kernel, D)
    said = said.view(len(x), 2 * kernel, D // group).repeat_interleave(group, -1)
    taps = []
    for distance in range(kernel):
        place = side * kernel + distance
        earlier = torch.cat([torch.zeros(distance, D), x[: len(x) - distance]])
        taps.append(earlier * (base[place] + said[:, place]))
    return sum(taps)


def convolved(parameters, name, x, convolution, inner):
    """What `inner` makes of x, between two convolutions, if there are any (DFlash2)."""
    if not convolution:
        return inner(x)
    kernel, group = convolution
    said = linear(parameters, f"{name}.kernel_projection", x, 2 * kernel * (D // group))
    made = inner(convolve(parameters, name, 0, x, said, kernel, group))
    return convolve(parameters, name, 1, made, said, kernel, group)


def layer(parameters, name, rows, positions, context, sees, convolution=None, norms=True):
    """A decoder layer over the rows of a block. Keys and values also come from `context`, which stands at 0, 1, .., and `sees`
    says which of both each row attends to. With `norms`, queries and keys are normalised by head."""
    normed = rms_norm(parameters, f"{name}.input_layernorm", rows)
    attend = lambda x: attended(parameters, f"{name}.self_attn", x, positions, context, sees, norms)
    rows = rows + convolved(parameters, f"{name}.attention_conv", normed, convolution, attend)
    normed = rms_norm(parameters, f"{name}.post_attention_layernorm", rows)
    change = lambda x: changed(parameters, f"{name}.mlp", x)
    return rows + convolved(parameters, f"{name}.mlp_conv", normed, convolution, change)


def attended(parameters, attention, normed, positions, context, sees, norms=True):
    both, places = torch.cat([context, normed]), torch.cat([torch.arange(len(context)), positions])
    norm = lambda part: f"{attention}.{part}_norm" if norms else None
    q = rotate(by_head(parameters, f"{attention}.q", normed, HEADS, norm("q")), positions)
    k = rotate(by_head(parameters, f"{attention}.k", both, KV, norm("k")), places)
    v = by_head(parameters, f"{attention}.v", both, KV, None)
    mixed = []
    for head in range(HEADS):
        group = head * KV // HEADS
        scores = (q[:, head] @ k[:, group].T) / math.sqrt(WIDTH)
        mixed.append(scores.masked_fill(~sees, -torch.inf).softmax(-1) @ v[:, group])
    return linear(parameters, f"{attention}.o_proj", torch.cat(mixed, -1), D)


def changed(parameters, mlp, normed):
    gate = torch.nn.functional.silu(linear(parameters, f"{mlp}.gate_proj", normed, INNER))
    up = linear(parameters, f"{mlp}.up_proj", normed, INNER)
    return linear(parameters, f"{mlp}.down_proj", gate * up, D)


def dflash(parameters, states, embeddings, tokens, layers, features, anchor_predicts=False, causal=False, window=None,
           convolution=None):
    """DFlash (z-lab/dflash): rows [e(pinned), mask, ..], the text through `fc` and a norm, and one layer after the other."""
    context = torch.cat([states[feature] for feature in features], -1)
    context = rms_norm(parameters, "context.norm", linear(parameters, "context.projection", context, D))
    mask = parameters.matrix("entry.mask", 1, D)
    count = BLOCK - 1 if anchor_predicts else BLOCK
    blocks = []
    for before in BEFORE:
        positions = before + 1 + torch.arange(count)
        seen = torch.cat([torch.arange(before + 1), positions])
        sees = torch.ones(count, before + 1 + count, dtype=torch.bool)
        if window:
            sees &= seen[None] > positions[:, None] - window
        if causal:
            sees[:, before + 1 :] &= torch.ones(count, count, dtype=torch.bool).tril()
        rows = torch.cat([embeddings[tokens[before + 1]][None]] + [mask] * (count - 1))
        for index in range(layers):
            rows = layer(parameters, f"decoder.layers.{index}", rows, positions, context[: before + 1], sees, convolution)
        blocks.append(rms_norm(parameters, "norm", rows)[count - BLOCK + 1 :])
    return torch.stack(blocks)


def biased(parameters, states, embeddings, tokens, form, codebook=False, **options):
    """What DSpark and XPress put on parallel heads: states [s; m] behind the text's tokens, where B m is added to the logits."""
    below = Parameters()
    slots = dflash(below, states, embeddings, tokens, **options)
    parameters.update({f"heads.{name}": value for name, value in below.items()})
    mean, before, found = slots.mean(1), torch.zeros(len(BEFORE), RANK), []
    mixing = parameters.matrix("form.mixing", BLOCK * (BLOCK - 1) // 2, RANK) if form == "refiner" else None
    for slot in range(BLOCK - 1):
        state = slots[:, slot]
        before_slot = [tokens[place + 1 + slot] for place in BEFORE]
        if codebook:
            token = parameters.matrix("token.weight", VOCABULARY, RANK)[before_slot]
        else:
            token = embeddings[before_slot]
            token = token / torch.sqrt((token * token).mean(-1, keepdim=True) + EPSILON)
            token = linear(parameters, "token", token, RANK)
        if form == "gated":
            gate = linear(parameters, "form", torch.cat([state, token], -1), RANK) + parameters.vector("form.bias", RANK)
            made = gate.sigmoid() * token
        elif form == "recurrent":
            read = torch.cat([before, token, state], -1)
            read = linear(parameters, "form", read, 3 * RANK) + parameters.vector("form.bias", 3 * RANK)
            keep, candidate, out = read.chunk(3, -1)
            before = keep.sigmoid() * before + (1 - keep.sigmoid()) * candidate.tanh()
            made = out.tanh()
        else:
            read = [linear(parameters, "form.state", state, RANK), linear(parameters, "form.mean", mean, RANK), token]
            new = linear(parameters, "form.input", torch.cat(read, -1), RANK)
            before = torch.cat([before, new], -1) if slot else new
            row = slot * (slot + 1) // 2
            mixed = new + sum(x * mixing[row + place] for place, x in enumerate(before.split(RANK, -1)))
            gate = torch.nn.functional.silu(linear(parameters, "form.gate", mixed, 2 * RANK))
            up = linear(parameters, "form.up", mixed, 2 * RANK)
            made = mixed + linear(parameters, "form.down", gate * up, RANK)
        found.append(torch.cat([state, made], -1))
    return torch.stack(found, 1)


def affine(parameters, name, x, outputs):
    return linear(parameters, name, x, outputs) + parameters.vector(f"{name}.bias", outputs)


def starts(states, embeddings, tokens):
    """The backbone's last states before the blocks, and by slot the ids and embeddings of the tokens before it."""
    ids = [[tokens[place + 1 + slot] for place in BEFORE] for slot in range(BLOCK - 1)]
    return states["last"][BEFORE], ids, [embeddings[of_slot] for of_slot in ids]


def mlp_speculator(parameters, states, embeddings, tokens, inner, tie, scale):
    """The token/embedding speculator (arXiv 2404.19124; fms-extras) with weights of its own: the states that its heads read."""
    state, ids, _ = starts(states, embeddings, tokens)
    w_s = 0.5 ** (0.5 / (BLOCK - 1))
    w_e = math.sqrt((1 - w_s * w_s) * inner / 2)
    unit = lambda x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    state, found = unit(state) / math.sqrt(2) if scale else state, []
    for slot in range(BLOCK - 1):
        number = 0 if tie else slot
        embedding = parameters.matrix(f"token.{number}.weight", VOCABULARY, inner)[ids[slot]]
        mixed = linear(parameters, f"carry.{min(slot, 1) if tie else slot}", state, inner) + w_e / w_s * embedding
        weight = parameters.vector(f"norm.{number}.weight", inner, around=1.0)
        state = torch.nn.functional.gelu(unit(mixed) * weight + parameters.vector(f"norm.{number}.shift", inner))
        found.append(state)
    return torch.stack(found, 1)


def prefix_states(parameters, states):
    """What a decoder layer over the whole text, causal, and a norm make of the last tokens before the blocks (Hydra++)."""
    text, positions = states["last"], torch.arange(TEXT)
    sees = torch.ones(TEXT, TEXT, dtype=torch.bool).tril()
    made = layer(parameters, "prefix.decoder.layers.0", text, positions, text[:0], sees, norms=False)
    return rms_norm(parameters, "prefix.norm", made)[BEFORE]


def hydra(parameters, states, embeddings, tokens, repeats, prefix=False):
    """Hydra (arXiv 2402.05109; zankner/Hydra), and Hydra++ with `prefix`."""
    read, _, embedded = starts(states, embeddings, tokens)
    if prefix:
        read = prefix_states(parameters, states)
    found = []
    for slot in range(BLOCK - 1):
        name = f"heads.{slot}"
        read = torch.cat([read, embedded[slot]], -1)
        change = torch.nn.functional.silu(affine(parameters, f"{name}.change", read, D))
        made = affine(parameters, f"{name}.first", read, D) + change
        for _ in range(repeats):
            made = made + torch.nn.functional.silu(affine(parameters, f"{name}.block", made, D))
        found.append(made)
    return torch.stack(found, 1)


def lava(parameters, states, embeddings, tokens, hidden):
    """Heads with vocabulary attention and look-around (LAVA, arXiv 2002.03084): the heads' own states, then what each predicts of the
    slots before and behind it."""
    last, _, _ = starts(states, embeddings, tokens)
    own, beside = [], []
    for slot in range(BLOCK - 1):
        inner = torch.nn.functional.silu(affine(parameters, f"heads.{slot}.up", last, hidden))
        state = last + affine(parameters, f"heads.{slot}.down", inner, D)
        found = (state @ embeddings.T).softmax(-1) @ embeddings
        state = linear(parameters, "view", torch.cat([state, found], -1), D)
        left, right = [linear(parameters, f"around.{side}", state, D) for side in ("left", "right")]
        own.append(linear(parameters, "around.own", torch.cat([state, left, right], -1), D))
        beside += [left, right]
    return torch.stack(own + beside, 1)


def redrafter(parameters, states, embeddings, tokens, blocks):
    """ReDrafter (arXiv 2403.09919; apple/ml-recurrent-drafter), before an unembedding of its own."""
    hidden, _, embedded = starts(states, embeddings, tokens)
    state, found = torch.zeros_like(hidden), []
    for slot in range(BLOCK - 1):
        read = linear(parameters, "token", embedded[slot], D) + affine(parameters, "state", state, D)
        state = torch.nn.functional.silu(read)
        made = torch.cat([hidden, state], -1)
        for block in range(blocks):
            made = made + torch.nn.functional.silu(affine(parameters, f"blocks.{block}", made, 2 * D))
        found.append(made)
    return torch.stack(found, 1)


def joined(parameters, states, embeddings, tokens, kind, features, parallel=False):
    """Rows of a token x_t and the state before it: EAGLE (SafeAILab/EAGLE), EAGLE-3 and P-EAGLE, and DeepSeek's module for
    multi-token prediction."""
    fused = torch.cat([states[feature] for feature in features], -1)
    fuse = (lambda x: linear(parameters, "entry.fuse", x, D)) if kind == "eagle3" else (lambda x: x)
    if parallel:
        mask = parameters.matrix("entry.mask.token", 1, D), parameters.matrix("entry.mask.states", 1, len(features) * D)

    def made(token, state):
        """What attention reads of a row, and the residual stream."""
        if kind == "eagle1":
            row = affine(parameters, "entry.join", torch.cat([token, state], -1), D)
            return row, row
        token = rms_norm(parameters, "entry.token_norm", token)
        both = torch.cat([token, rms_norm(parameters, "entry.state_norm", state)], -1)
        if kind == "eagle3":
            return both, state
        row = linear(parameters, "entry.join", both, D)
        return rms_norm(parameters, "decoder.layers.0.input_layernorm", row), row

    def through(row, position, context):
        """A row through the layer, behind what attention has read before it: (read, position) each."""
        read, stream = row
        name = "decoder.layers.0"
        seen = torch.stack([read for read, _ in context] + [read])
        places = torch.tensor([place for _, place in context] + [position])
        q = rotate(by_head(parameters, f"{name}.self_attn.q", read[None], HEADS, None), places[-1:])
        k = rotate(by_head(parameters, f"{name}.self_attn.k", seen, KV, None), places)
        v = by_head(parameters, f"{name}.self_attn.v", seen, KV, None)
        mixed = [
            ((q[0, head] @ k[:, head * KV // HEADS].T) / math.sqrt(WIDTH)).softmax(-1) @ v[:, head * KV // HEADS]
            for head in range(HEADS)
        ]
        stream = stream + linear(parameters, f"{name}.self_attn.o_proj", torch.cat(mixed)[None], D)[0]
        normed = rms_norm(parameters, f"{name}.post_attention_layernorm", stream)
        return stream + changed(parameters, f"{name}.mlp", normed)

    blocks = []
    for before in BEFORE:
        # Nothing stands before the text's first token.
        context = []
        for place in range(1, before + 1):
            read, _ = made(states["layer-0"][place], fuse(fused[place - 1]))
            context.append((read, place))
        state, rows = fuse(fused[before]), []
        for slot in range(BLOCK - 1):
            token = embeddings[tokens[before + 1 + slot]]
            if parallel and slot:
                token, state = mask[0][0], fuse(mask[1][0])
            row = made(token, state)
            position = before + 1 + slot
            out = through(row, position, context)
            context.append((row[0], position))
            state = out
            rows.append(out if kind == "eagle1" else rms_norm(parameters, "norm", out))
        blocks.append(torch.stack(rows))
    return torch.stack(blocks)


def chimera(parameters, states, embeddings, tokens):
    """Chimera (arXiv 2402.15758; kafkayu/Chimera): h + out, which [U U] makes logits of."""
    text, hidden = states["layer-0"], states["last"]

    def trigram(before, last, token):
        read = torch.cat([before, last, token])
        read = read + torch.nn.functional.silu(affine(parameters, "entry.change", read, 3 * D))
        return linear(parameters, "entry.down", read, D)

    blocks = []
    for before in BEFORE:
        # The text, then the block, behind nothing.
        drafted = [embeddings[tokens[before + 1 + slot]] for slot in range(BLOCK - 1)]
        all_tokens = [torch.zeros(D)] * 2 + list(text[: before + 1]) + drafted
        grams = [trigram(*all_tokens[place : place + 3]) for place in range(1, len(all_tokens) - 2)]
        rows = torch.cat([hidden[: before + 1], torch.stack(grams)])
        states_end = before + 1
        positions = torch.cat([torch.arange(states_end), torch.arange(1, 1 + len(grams))])
        is_state = torch.arange(len(rows)) < states_end
        # A trigram at t sees states and trigrams up to t; nothing is read of what the layer makes of states.
        sees = positions[None] <= positions[:, None]
        name = "decoder.layers.0"
        made = layer(parameters, name, rows, positions, rows[:0], sees, norms=False)
        made = made[~is_state][-(BLOCK - 1) :]
        blocks.append(made + hidden[before])
    return torch.stack(blocks)


def glide(parameters, states, embeddings, tokens, crosses):
    """GLIDE (arXiv 2402.02082; NonvolatileMemory/GliDe_with_a_CaPE_ICML_24): rows of tokens that attend to the rows before them and
    to the keys and values that the backbone made of the text before the pinned token."""
    text, positions, name = states["layer-0"], torch.arange(TEXT), "decoder.layers.0"
    # The backbone is frozen.
    frozen = parameters.frozen = Parameters()
    of_backbone = f"model.layers.{crosses}"
    normed = rms_norm(frozen, f"{of_backbone}.input_layernorm", states[f"layer-{crosses}"])
    keys = rotate(by_head(frozen, f"{of_backbone}.self_attn.k", normed, KV, None), positions).detach()
    values = by_head(frozen, f"{of_backbone}.self_attn.v", normed, KV, None).detach()

    blocks = []
    for before in BEFORE:
        drafted = [embeddings[tokens[before + 1 + slot]] for slot in range(BLOCK - 1)]
        rows = torch.cat([text[: before + 1], torch.stack(drafted)])
        places = torch.arange(len(rows))
        sees = places[None] <= places[:, None]
        normed = rms_norm(parameters, f"{name}.input_layernorm", rows)
        rows = rows + attended(parameters, f"{name}.self_attn", normed, places, rows[:0], sees, norms=False)
        # Only the block's rows are read from here on: there is one layer.
        rows, places = rows[before + 1 :], places[before + 1 :]
        queries = rotate(by_head(parameters, f"{name}.cross_attn.q", rows, HEADS, None), places)
        mixed = []
        for head in range(HEADS):
            group = head * KV // HEADS
            scores = queries[:, head] @ keys[: before + 1, group].T / math.sqrt(WIDTH)
            mixed.append(scores.softmax(-1) @ values[: before + 1, group])
        rows = rows + linear(parameters, f"{name}.cross_attn.o_proj", torch.cat(mixed, -1), D)
        normed = rms_norm(parameters, f"{name}.post_attention_layernorm", rows)
        blocks.append(rms_norm(parameters, "norm", rows + changed(parameters, f"{name}.mlp", normed)))
    return torch.stack(blocks)


def bias_section(form, codebook=False, **_):
    return dict(form=form, rank=RANK, tokens="codebooks" if codebook else "embeddings")


FEATURES = ["layer-1", "last"]
DFLASH = dict(layers=1, features=FEATURES, anchor_predicts=True)
SPARK = dict(kind="dflash", layers=1, context=FEATURES, anchor_predicts=True)
SYSTEMS = {
    "dflash": (dflash, dict(layers=2, features=FEATURES), dict(kind="dflash", layers=2, context=FEATURES)),
    "dflash-causal": (
        dflash,
        dict(layers=1, features=FEATURES, anchor_predicts=True, causal=True, window=4),
        dict(kind="dflash", layers=1, context=FEATURES, anchor_predicts=True, causal=True, sliding_window=4),
    ),
    "dflash2": (
        dflash,
        dict(layers=1, features=FEATURES, convolution=(3, 4)),
        dict(kind="dflash", layers=1, context=FEATURES, convolution=dict(kernel=3, group=4)),
    ),
    "dspark-gated": (biased, dict(form="gated", codebook=True, **DFLASH), SPARK),
    "dspark-recurrent": (biased, dict(form="recurrent", **DFLASH), SPARK),
    "mlp-speculator": (
        mlp_speculator,
        dict(inner=7, tie=False, scale=False),
        dict(kind="speculator", inner=7, weights="own"),
    ),
    "mlp-speculator-tied": (
        mlp_speculator,
        dict(inner=5, tie=True, scale=True),
        dict(kind="speculator", inner=5, weights="own", tie_weights=True, scale_input=True),
    ),
    "hydra": (hydra, dict(repeats=3), dict(kind="hydra")),
    "redrafter": (redrafter, dict(blocks=2), dict(kind="redrafter", unembedding="own")),
    "xpress": (biased, dict(form="refiner", **DFLASH), SPARK),
    "eagle1": (joined, dict(kind="eagle1", features=["last"]), dict(kind="eagle1", bias=True)),
    "eagle3": (joined, dict(kind="eagle3", features=FEATURES), dict(kind="eagle3", input=FEATURES)),
    "p-eagle": (
        joined,
        dict(kind="eagle3", features=FEATURES, parallel=True),
        dict(kind="eagle3", input=FEATURES, parallel=True),
    ),
    "mtp": (joined, dict(kind="mtp", features=["last"]), dict(kind="mtp")),
    "hydra-plus-plus": (hydra, dict(repeats=3, prefix=True), dict(kind="hydra", prefix_layer=dict())),
    "lava": (lava, dict(hidden=7), dict(kind="lava", hidden=7)),
    "chimera": (chimera, dict(), dict(kind="chimera")),
    "glide": (glide, dict(crosses=1), dict(kind="glide", layer=1)),
}


def rounded(x):
    return [float(f"{value:.9g}") for value in x.detach().flatten().tolist()]


def main(folder):
    for number, (name, (network, options, architecture)) in enumerate(SYSTEMS.items()):
        torch.manual_seed(number)
        parameters = Parameters()
        read = FEATURES + ["layer-0"] if network in (joined, chimera, glide) else FEATURES
        states = {feature: torch.randn(TEXT, D) for feature in read}
        embeddings = torch.randn(VOCABULARY, D)
        tokens = torch.randint(VOCABULARY, (TEXT + BLOCK,)).tolist()
        found = network(parameters, states, embeddings, tokens, **options)
        coefficients = torch.randn(found.shape)
        (coefficients * found).sum().backward()
        assert D == HEADS * WIDTH
        shape = dict(hidden=D, layers=3, heads=HEADS, kv_heads=KV, intermediate=INNER, context=64)
        vectors = dict(
            made_with=f"torch {torch.__version__}",
            architecture=architecture,
            bias=bias_section(**options) if network is biased else None,
            backbone=shape,
            vocabulary=VOCABULARY,
            heads=BLOCK - 1,
            parameters={
                key: dict(shape=list(value.shape), values=rounded(value), gradient=rounded(value.grad))
                for key, value in sorted(parameters.items())
            },
            states={feature: rounded(value) for feature, value in states.items()},
            embeddings=rounded(embeddings),
            tokens=tokens,
            before=BEFORE,
            coefficients=rounded(coefficients),
            expected=rounded(found),
        )
        if parameters.frozen:
            vectors["frozen"] = {key: [list(value.shape), rounded(value)] for key, value in parameters.frozen.items()}
        if found.shape[1] > BLOCK - 1:
            vectors["asked"] = found.shape[1]
        with open(os.path.join(folder, f"{name}.json"), "w") as file:
            json.dump(vectors, file)
            file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
