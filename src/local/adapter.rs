//! Whether a LoRA adapter's file fits a model's, by their headers.
//!
//! Promises: what passes is of the same architecture and names only tensors that the model has, in
//! shapes that fit, as llama.cpp will want it; what differs is told. Called by `survey` and by
//! `control` when it checks a configuration.

use std::path::Path;

use super::gguf::{Header, Tensor};

/// Checks an adapter's file against the file of its model; an error is one sentence.
pub fn check_adapter_files(adapter: &Path, base: &Path) -> Result<(), String> {
    let header = Header::read(base).map_err(|error| format!("{}: {error}", base.display()))?;
    check_adapter(adapter, &header).map(drop).map_err(|error| format!("{}: {error}", adapter.display()))
}

/// Checks an adapter's file against a model's header; answers the bytes of its file.
pub(super) fn check_adapter(file: &Path, base: &Header) -> Result<u64, String> {
    let header = Header::read(file)?;
    match (header.text("general.type"), header.text("adapter.type")) {
        (Some("adapter"), Some("lora")) => {}
        (Some("adapter"), other) => {
            return Err(format!("an adapter of type {:?}; want \"lora\"", other.unwrap_or("none")));
        }
        (other, _) => return Err(format!("general.type is {:?}; want \"adapter\"", other.unwrap_or("none"))),
    }
    if header.length("adapter.alora.invocation_tokens").is_some() {
        return Err("an adapter that is switched on by certain tokens is not supported".to_owned());
    }
    if header.architecture() != base.architecture() {
        let (own, wanted) = (header.architecture(), base.architecture());
        return Err(format!("made for the architecture {own:?}, the model's is {wanted:?}"));
    }
    let mut pairs = 0_usize;
    for (name, tensor) in header.tensors() {
        if let Some(of) = name.strip_suffix(".lora_a") {
            let other = header.tensor(&format!("{of}.lora_b"));
            check_pair(of, tensor, other, base.tensor(of))?;
            pairs += 1;
        } else if let Some(of) = name.strip_suffix(".lora_b") {
            header.tensor(&format!("{of}.lora_a")).ok_or_else(|| format!("{of} has half of a pair only"))?;
        } else if !name.ends_with("_norm.weight") {
            return Err(format!("tensor {name:?} is neither a .lora_a nor a .lora_b"));
        }
    }
    if pairs == 0 { Err("it changes no tensor".to_owned()) } else { Ok(header.bytes) }
}

fn check_pair(name: &str, a: &Tensor, b: Option<&Tensor>, base: Option<&Tensor>) -> Result<(), String> {
    let b = b.ok_or_else(|| format!("{name} has half of a pair only"))?;
    let base = base.ok_or_else(|| format!("the model has no tensor {name:?}: made for another one"))?;
    let (Ok([a_in, rank]), Ok([b_in, b_out]), Ok([columns, rows])) = (
        <[u64; 2]>::try_from(a.shape.as_slice()),
        <[u64; 2]>::try_from(b.shape.as_slice()),
        <[u64; 2]>::try_from(base.shape.as_slice()),
    ) else {
        return Err(format!("{name}: want matrices"));
    };
    // The embedding's pair is stored the other way round.
    let fits = match name.ends_with("token_embd.weight") {
        true => (columns, rows) == (b_out, rank),
        false => (columns, rows) == (a_in, b_out) && rank == b_in,
    };
    let made = format!("{name}: made for {a_in} × {b_out} (rank {rank} and {b_in}), the model's is {columns} × {rows}");
    if fits { Ok(()) } else { Err(made) }
}

#[cfg(test)]
mod tests {
    use super::super::gguf_writer::Writer;
    use super::*;

    fn adapter(architecture: &str) -> Writer {
        Writer::new()
            .text("general.type", "adapter")
            .text("adapter.type", "lora")
            .text("general.architecture", architecture)
    }

    fn check(adapter: Writer) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, file: Writer| {
            let path = folder.path().join(name);
            std::fs::write(&path, file.finish()).unwrap();
            path
        };
        let base = Writer::new()
            .text("general.architecture", "llama")
            .tensor("blk.0.attn_q.weight", &[8, 6], 0)
            .tensor("token_embd.weight", &[8, 9], 0);
        check_adapter_files(&write("adapter.gguf", adapter), &write("base.gguf", base))
    }

    fn pair(file: Writer, name: &str, a: [u64; 2], b: [u64; 2]) -> Writer {
        file.tensor(&format!("{name}.lora_a"), &a, 0).tensor(&format!("{name}.lora_b"), &b, 0)
    }

    #[test]
    fn an_adapter_of_the_models_shapes_fits() {
        let file = pair(adapter("llama"), "blk.0.attn_q.weight", [8, 2], [2, 6]);
        assert_eq!(check(pair(file, "token_embd.weight", [2, 9], [2, 8])), Ok(()));
    }

    #[test]
    fn what_differs_is_told() {
        let q = "blk.0.attn_q.weight";
        let table = [
            (Writer::new().text("general.architecture", "llama"), "general.type is \"none\""),
            (Writer::new().text("general.type", "adapter").text("adapter.type", "ia3"), "type \"ia3\""),
            (adapter("qwen2"), "made for the architecture \"qwen2\", the model's is \"llama\""),
            (adapter("llama"), "changes no tensor"),
            (adapter("llama").tensor("blk.0.attn_q.weight.lora_a", &[8, 2], 0), "half of a pair"),
            (adapter("llama").tensor("blk.0.attn_q.weight.lora_b", &[2, 6], 0), "half of a pair"),
            (pair(adapter("llama"), "blk.7.attn_q.weight", [8, 2], [2, 6]), "no tensor \"blk.7.attn_q.weight\""),
            (pair(adapter("llama"), q, [9, 2], [2, 6]), "made for 9 × 6 (rank 2 and 2), the model's is 8 × 6"),
            (pair(adapter("llama"), q, [8, 2], [3, 6]), "rank 2 and 3"),
            (adapter("llama").tensor("x", &[1], 0), "neither a .lora_a"),
            (adapter("llama").texts("adapter.alora.invocation_tokens", &["1"]), "switched on by certain tokens"),
        ];
        for (file, told) in table {
            let error = check(file).unwrap_err();
            assert!(error.contains("adapter.gguf: ") && error.contains(told), "{error} should say {told}");
        }
    }
}
