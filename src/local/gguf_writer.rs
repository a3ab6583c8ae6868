//! Writes small GGUF files for tests: a header, and zeros where weights would be.

/// Collects keys and tensors.
#[derive(Debug, Default)]
pub(super) struct Writer {
    keys: Vec<u8>,
    tensors: Vec<u8>,
    counts: (u64, u64),
}

impl Writer {
    /// Bytes that follow the header.
    pub(super) const PADDING: usize = 32;

    pub(super) fn new() -> Self {
        Writer::default()
    }

    fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
        text(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.counts.1 += 1;
        self
    }

    pub(super) fn text(self, name: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.key(name, 8, &bytes)
    }

    pub(super) fn u32(self, name: &str, value: u32) -> Self {
        self.key(name, 4, &value.to_le_bytes())
    }

    pub(super) fn f32(self, name: &str, value: f32) -> Self {
        self.key(name, 6, &value.to_le_bytes())
    }

    pub(super) fn flag(self, name: &str, value: bool) -> Self {
        self.key(name, 7, &[u8::from(value)])
    }

    pub(super) fn texts(self, name: &str, values: &[&str]) -> Self {
        let mut bytes = 8_u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| text(&mut bytes, value));
        self.key(name, 9, &bytes)
    }

    pub(super) fn u32s(self, name: &str, values: &[u32]) -> Self {
        let mut bytes = 4_u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.key(name, 9, &bytes)
    }

    pub(super) fn tensor(mut self, name: &str, shape: &[u64], kind: u32) -> Self {
        text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|extent| self.tensors.extend(extent.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(0_u64.to_le_bytes());
        self.counts.0 += 1;
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(self.counts.0.to_le_bytes());
        bytes.extend(self.counts.1.to_le_bytes());
        bytes.extend(self.keys);
        bytes.extend(self.tensors);
        bytes.extend([0; Writer::PADDING]);
        bytes
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
