//! Copies from the text, as the flags of engines that do them by themselves.

/// Returns how engines are told to draft by copying from the text, at most `drafted` tokens a step. `longest` is the number of
/// tokens before a copy that must agree at most.
pub fn flags(drafted: usize, longest: usize) -> String {
    let vllm = |config: String| format!("    vllm serve MODEL --speculative-config '{config}'\n");
    let suffix = format!(
        "{{\"method\": \"suffix\", \"num_speculative_tokens\": {drafted}, \"suffix_decoding_max_tree_depth\": 24}}"
    );
    let ngram = format!(
        "{{\"method\": \"ngram\", \"num_speculative_tokens\": {drafted}, \"prompt_lookup_min\": 1, \"prompt_lookup_max\": {longest}}}"
    );
    [
        format!("vLLM, behind the same 1 to {longest} tokens earlier in the text, as `prompt-lookup` here:\n"),
        vllm(ngram),
        "vLLM, suffix trees over the prompt and earlier outputs:\n".to_owned(),
        vllm(suffix),
        "SGLang, n-grams of all requests:\n".to_owned(),
        format!(
            "    python -m sglang.launch_server --model-path MODEL --speculative-algorithm NGRAM --speculative-num-draft-tokens {drafted}\n"
        ),
        "llama.cpp:\n".to_owned(),
        format!("    llama-server -m MODEL.gguf --spec-type ngram-simple --draft-max {drafted}\n"),
    ]
    .concat()
}
