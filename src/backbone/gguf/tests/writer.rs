//! Writes GGUF files for tests. It knows nothing of this crate, so that `tests/it/strange_files.rs` writes some as well.

/// A file that is being written: the bytes of its parts, and how many entries they have.
#[derive(Clone, Default)]
pub struct Writer {
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl Writer {
    /// Writes what every Llama has: two layers, three heads of four numbers, one of keys and values.
    pub fn llama() -> Self {
        let eps = 1e-5f32.to_le_bytes();
        Self::default()
            .text("general.architecture", "llama")
            .count("llama.block_count", 2)
            .count("llama.context_length", 64)
            .count("llama.embedding_length", 12)
            .count("llama.feed_forward_length", 8)
            .count("llama.attention.head_count", 3)
            .count("llama.attention.head_count_kv", 1)
            .key("llama.attention.layer_norm_rms_epsilon", 6, &eps)
            .floats("token_embd.weight", &[5, 12], &[0.5; 60])
    }

    pub fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.key_count += 1;
        put_text(&mut self.keys, key);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self
    }

    pub fn text(self, key: &str, text: &str) -> Self {
        let mut value = Vec::new();
        put_text(&mut value, text);
        self.key(key, 8, &value)
    }

    pub fn count(self, key: &str, count: u32) -> Self {
        self.key(key, 4, &count.to_le_bytes())
    }

    pub fn flag(self, key: &str, flag: bool) -> Self {
        self.key(key, 7, &[flag.into()])
    }

    pub fn texts(self, key: &str, texts: &[String]) -> Self {
        let mut value = header(8, texts.len());
        texts.iter().for_each(|text| put_text(&mut value, text));
        self.key(key, 9, &value)
    }

    pub fn integers(self, key: &str, numbers: &[i32]) -> Self {
        let mut value = header(5, numbers.len());
        value.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        self.key(key, 9, &value)
    }

    pub fn numbers(self, key: &str, numbers: &[f32]) -> Self {
        let mut value = header(6, numbers.len());
        value.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        self.key(key, 9, &value)
    }

    /// Adds a tensor; `shape` is row-major, as the reader returns it.
    pub fn tensor(mut self, name: &str, kind: u32, shape: &[u64], bytes: &[u8]) -> Self {
        self.tensor_count += 1;
        put_text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        self.tensors.extend(shape.iter().rev().flat_map(|n| n.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    pub fn floats(self, name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensor(name, 0, shape, &bytes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.key_count.to_le_bytes());
        file.extend(&self.keys);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn header(kind: u32, count: usize) -> Vec<u8> {
    let mut value = kind.to_le_bytes().to_vec();
    value.extend((count as u64).to_le_bytes());
    value
}
