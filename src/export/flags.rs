//! Copies from the text, as the flags of engines that do them by themselves.

/// Returns how engines are told to draft by copying from the text, `drafted` tokens a step.
pub fn flags(drafted: usize) -> String {
    let vllm = |config: &str| format!("    vllm serve MODEL --speculative-config '{config}'\n");
    [
        "vLLM, the longest suffix of up to four tokens:\n".to_owned(),
        vllm(&format!(
            "{{\"method\": \"ngram\", \"prompt_lookup_max\": 4, \"prompt_lookup_min\": 1, \"num_speculative_tokens\": {drafted}}}"
        )),
        "vLLM, suffix trees over the prompt and earlier outputs:\n".to_owned(),
        vllm(&format!("{{\"method\": \"suffix\", \"num_speculative_tokens\": {drafted}}}")),
        "SGLang:\n".to_owned(),
        format!(
            "    python -m sglang.launch_server --model-path MODEL --speculative-algorithm NGRAM --speculative-num-draft-tokens {drafted}\n"
        ),
        "llama.cpp:\n".to_owned(),
        format!("    llama-lookup -m MODEL.gguf --draft-max {drafted} -p PROMPT\n"),
    ]
    .concat()
}
