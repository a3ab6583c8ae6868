//! Headers written here, whole, cut anywhere and bent anywhere.

use super::super::gguf_writer::Writer;
use super::*;

fn sample() -> Vec<u8> {
    Writer::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 0.5)
        .flag("llama.attention.causal", false)
        .texts("tokenizer.ggml.tokens", &["a", "bc", ""])
        .u32s("llama.attention.head_count_kv", &[3, 0])
        .tensor("token_embd.weight", &[4, 3], 12)
        .tensor("output_norm.weight", &[4], 0)
        .finish()
}

fn read(bytes: &[u8]) -> Result<Header, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    std::fs::write(&file, bytes).unwrap();
    Header::read(&file)
}

#[test]
fn keys_and_tensors_are_read() {
    let header = read(&sample()).unwrap();
    assert_eq!(header.architecture(), "llama");
    assert_eq!(header.of_architecture("block_count"), Some(2));
    assert_eq!(header.fraction("llama.rope.freq_base"), Some(0.5));
    assert_eq!(header.number("llama.rope.freq_base"), None, "it is not whole");
    assert_eq!(header.flag("llama.attention.causal"), Some(false));
    assert_eq!(header.length("tokenizer.ggml.tokens"), Some(3));
    assert_eq!(header.per_layer("llama.attention.head_count_kv", 2), Some(vec![3, 0]));
    assert_eq!(header.per_layer("llama.block_count", 2), Some(vec![2, 2]));
    assert_eq!(header.parameters(), 16);
    assert_eq!(header.quantisation(), "Q4_K");
    assert_eq!(header.tensor("output_norm.weight").map(|tensor| tensor.shape.clone()), Some(vec![4]));
}

#[test]
fn what_is_no_header_is_told() {
    let table: [(&[u8], &str); 4] = [
        (b"", "not a GGUF file"),
        (b"hello, world", "not a GGUF file"),
        (b"GGUF", "damaged or cut off"),
        (b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0", "version is 1"),
    ];
    for (bytes, told) in table {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
    assert!(Header::read(Path::new("nowhere.gguf")).unwrap_err().starts_with("no such file"));
}

#[test]
fn a_header_cut_anywhere_or_bent_anywhere_is_refused_or_read_but_never_a_panic() {
    let whole = sample();
    let end = whole.len() - Writer::PADDING;
    for cut in 4..end {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..end {
        let mut bent = whole.clone();
        bent[at] = 0xff;
        let _either = read(&bent);
    }
}
