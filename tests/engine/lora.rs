//! Writes a small LoRA adapter for SmolLM2-135M as a GGUF file: rank 2 on the down projections of some
//! layers, with fixed pseudo-random values that are large enough to be heard.

use std::path::{Path, PathBuf};

/// Of SmolLM2-135M: the width of its feed-forward network and of its residual stream.
const HIDDEN: u64 = 1536;
const WIDTH: u64 = 576;
const RANK: u64 = 2;
const ALIGNMENT: usize = 32;

/// Writes the adapter into a folder; `seed` makes it another one.
pub(crate) fn write(folder: &Path, seed: u64, architecture: &str) -> PathBuf {
    let mut random = seed.wrapping_mul(2).wrapping_add(1);
    let mut header = b"GGUF".to_vec();
    let layers: Vec<u64> = (8..20).collect();
    header.extend(3_u32.to_le_bytes());
    header.extend((2 * layers.len() as u64).to_le_bytes());
    header.extend(4_u64.to_le_bytes());
    for (key, value) in [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", architecture)]
    {
        text(&mut header, key);
        header.extend(8_u32.to_le_bytes());
        text(&mut header, value);
    }
    text(&mut header, "adapter.lora.alpha");
    header.extend(6_u32.to_le_bytes());
    header.extend((RANK as f32).to_le_bytes());
    let mut data = Vec::new();
    for layer in layers {
        for (part, shape) in [("lora_a", [HIDDEN, RANK]), ("lora_b", [RANK, WIDTH])] {
            text(&mut header, &format!("blk.{layer}.ffn_down.weight.{part}"));
            header.extend(2_u32.to_le_bytes());
            shape.iter().for_each(|extent| header.extend(extent.to_le_bytes()));
            header.extend(0_u32.to_le_bytes());
            header.extend((data.len() as u64).to_le_bytes());
            for _ in 0..shape[0] * shape[1] {
                data.extend(value(&mut random).to_le_bytes());
            }
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
    header.extend(data);
    let file = folder.join(format!("lora-{seed}-{architecture}.gguf"));
    std::fs::write(&file, header).expect("a temporary file");
    file
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A number between -0.3 and 0.3 (a linear congruential generator).
fn value(random: &mut u64) -> f32 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*random >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.6
}
