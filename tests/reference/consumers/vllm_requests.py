#!/usr/bin/env python3
"""Let vLLM draft with exported heads, request by request, and compare what it accepts with a replay of the run they come from.

    python vllm_requests.py TARGET DRAFT RUN SET METHOD

TARGET is the backbone's folder, DRAFT the exported one, RUN the folder of an evaluated run, SET one of its data sets, and METHOD
vLLM's name for the kind of draft, which it would otherwise guess from the folder's name. Every request ends where one of the replay's blocks does, the last
but one, so that nothing is cut. Prints one line of JSON: how many requests there were, how many gave the backbone's greedy text, in how
many the engine accepted something else, and the steps and accepted tokens by position of both.
"""
import array, json, os, sys

os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", VLLM_LOGGING_LEVEL="ERROR",
    VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_ENABLE_V1_MULTIPROCESSING="0",
)


def numbers(path):
    with open(path, "rb") as file:
        return array.array("I", file.read())


def replayed(run, name):
    """Of every document: its prompt, the greedy text behind it, and how many drafted tokens each whole block had accepted."""
    trace = json.load(open(f"{run}/traces/{name}/trace.json"))
    tokens = numbers(f"{run}/traces/{name}/tokens.bin")
    about = json.load(open(f"{run}/candidates/{name}/candidates.json"))
    heads, k = about["heads"], about["k"]
    ids = numbers(f"{run}/candidates/{name}/candidates.bin")
    place = 0
    for document in trace["documents"]:
        first, prompt, count = document["first"], document["prompt"], document["continuation"]
        text = tokens[first + prompt : first + prompt + count]
        at, accepted = 0, []
        while at < count:
            best = [ids[((place + at) * heads + head) * k] for head in range(heads)]
            right = 0
            while right < heads and at + 1 + right < count and best[right] == text[at + 1 + right]:
                right += 1
            accepted.append(right)
            at += 1 + right
        place += count
        yield list(tokens[first : first + prompt]), list(text), accepted[:-1], heads


def main(target, draft, run, name, method):
    from vllm import LLM, SamplingParams

    requests = list(replayed(run, f"{name}-test"))
    heads = requests[0][3]
    speculative = dict(model=draft, num_speculative_tokens=heads, method=method)
    longest = max(len(prompt) + len(text) for prompt, text, _, _ in requests) + 2 * heads + 16
    llm = LLM(
        model=target, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=longest, max_num_seqs=1,
        speculative_config=speculative, disable_log_stats=False, enable_prefix_caching=False,
    )

    def counted():
        found = {"num_drafts": 0, "num_accepted_tokens_per_pos": [0] * heads}
        for metric in llm.get_metrics():
            key = metric.name.rsplit("spec_decode_", 1)[-1]
            if key in found:
                found[key] = metric.value if hasattr(metric, "value") else list(metric.values)
        return [found["num_drafts"], *found["num_accepted_tokens_per_pos"]]

    sums = {"engine": [0] * (heads + 1), "replay": [0] * (heads + 1)}
    greedy = differing = 0
    for prompt, text, accepted, _ in requests:
        tokens = sum(accepted) + len(accepted) + 1
        before = counted()
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        found = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0].token_ids
        engine = [after - earlier for after, earlier in zip(counted(), before)]
        replay = [len(accepted), *(sum(right > head for right in accepted) for head in range(heads))]
        greedy += list(found) == text[:tokens]
        differing += engine != replay
        for key, values in (("engine", engine), ("replay", replay)):
            sums[key] = [a + b for a, b in zip(sums[key], values)]
    print(json.dumps({"requests": len(requests), "greedy": greedy, "differing": differing, **sums}))


if __name__ == "__main__":
    main(*sys.argv[1:])
