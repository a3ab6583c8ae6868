//! What a model's file tells before anything of it is loaded: what it is for, what it can do, and how
//! much memory it will take under its settings.
//!
//! Pure but for reading headers. Promises: everything that is wrong with the settings, and most of what
//! can be wrong with a file, is told here, in one sentence that names the file. The KV cache is f16;
//! buffers are estimated from what llama.cpp was measured to take (within a tenth, above). Called by
//! `host` for every model, loaded or not.

use std::num::NonZeroU32;
use std::path::Path;

use super::adapter::check_adapter;
use super::gguf::Header;
use super::host::{Capabilities, ModelConfig};
use super::memory::Need;
use super::template::Template;

/// The longest context taken without being asked for.
const USUAL_CONTEXT: u32 = 8192;
/// The same for embeddings: an encoder's memory grows with the square of it.
const USUAL_INPUT: u32 = 2048;
/// The most sequences llama.cpp keeps apart.
const MOST_SLOTS: u32 = 256;
/// Tokens of a batch: more never fit into a step of 100 ms on a CPU that we know.
const BATCH: u64 = 256;
/// Tokens of a batch left to prompts when every slot decodes.
const SPARE: u64 = 32;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It continues text.
    Generate,
    /// It turns text into one vector.
    Embed,
}

/// What is known of a model without loading it.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) purpose: Purpose,
    /// Its chat template, if the file has one that compiles. The texts of its special tokens are not
    /// known yet: for what it can do, not for rendering.
    pub(super) template: Option<Template>,
    pub(super) capabilities: Capabilities,
    /// Tokens per slot.
    pub(super) context: NonZeroU32,
    /// Tokens of a batch.
    pub(super) batch: u64,
    /// Dimensions of its vectors.
    pub(super) width: u64,
    pub(super) need: Need,
}

impl Survey {
    /// Reads the headers of a model's files; an error is one sentence.
    pub(super) fn of(config: &ModelConfig) -> Result<Survey, String> {
        if !(1..=MOST_SLOTS).contains(&config.slots) {
            return Err(format!("slots = {}: must be 1 … {MOST_SLOTS}", config.slots));
        }
        let header = named(&config.file, Header::read(&config.file))?;
        let purpose = named(&config.file, purpose(&header))?;
        let trained = named(&config.file, trained_context(&header))?;
        let usual = if purpose == Purpose::Embed { USUAL_INPUT } else { USUAL_CONTEXT };
        let context = choose_context(config.context, trained, usual)?;
        let adapter = match &config.adapter {
            Some(adapter) => named(&adapter.file, check_adapter(&adapter.file, &header))?,
            None => 0,
        };
        let generates = purpose == Purpose::Generate;
        let template = header.text("tokenizer.chat_template").and_then(|text| Template::compile(text, "", "").ok());
        let batch = if generates { BATCH.max(u64::from(config.slots) + SPARE) } else { context.get().into() };
        let need = Need { adapter, ..need(&header, purpose, (context.get(), config.slots), batch) };
        let capabilities = Capabilities {
            chat: generates && template.is_some(),
            tools: generates && template.as_ref().is_some_and(Template::supports_tools),
            embeddings: !generates,
            context: context.get(),
        };
        let width = header.of_architecture("embedding_length").unwrap_or(0);
        Ok(Survey { purpose, template, capabilities, context, batch, width, need })
    }
}

/// With the file's name in front of what is wrong with it.
fn named<T>(file: &Path, outcome: Result<T, String>) -> Result<T, String> {
    outcome.map_err(|error| format!("{}: {error}", file.display()))
}

fn purpose(header: &Header) -> Result<Purpose, String> {
    /// llama.cpp's number of a pooling that ranks pairs of texts.
    const RANK: u64 = 4;
    if header.text("general.type") == Some("adapter") {
        return Err("an adapter, not a model; want adapter = { of = \"local/NAME\", file = … }".to_owned());
    }
    match header.architecture() {
        "" => return Err("its GGUF header names no architecture".to_owned()),
        "t5" => return Err("models with an encoder and a decoder are not supported".to_owned()),
        _ => {}
    }
    match header.of_architecture("pooling_type") {
        Some(RANK) => return Err("rerankers are not supported".to_owned()),
        Some(pooling) if pooling > 0 => return Ok(Purpose::Embed),
        _ => {}
    }
    let causal = header.flag(&format!("{}.attention.causal", header.architecture()));
    Ok(if causal == Some(false) { Purpose::Embed } else { Purpose::Generate })
}

fn trained_context(header: &Header) -> Result<u32, String> {
    let length = header.of_architecture("context_length").and_then(|length| u32::try_from(length).ok());
    length.ok_or_else(|| format!("its GGUF header (architecture {:?}) names no context length", header.architecture()))
}

fn choose_context(wanted: Option<u32>, trained: u32, usual: u32) -> Result<NonZeroU32, String> {
    let context = wanted.unwrap_or(trained.min(usual));
    match NonZeroU32::new(context) {
        Some(chosen) if context <= trained => Ok(chosen),
        _ => Err(format!("context = {context}: the model was trained for 1 … {trained}")),
    }
}

fn need(header: &Header, purpose: Purpose, (context, slots): (u32, u32), batch: u64) -> Need {
    let cells = u64::from(context).saturating_mul(slots.into());
    let kv = match purpose {
        Purpose::Generate => kv_bytes(header, cells),
        Purpose::Embed => 0,
    };
    Need { weights: header.bytes, adapter: 0, kv, buffers: buffer_bytes(header, purpose, batch, cells) }
}

/// Bytes of f16 keys and values for so many tokens: over all layers, heads × (key + value) × 2.
fn kv_bytes(header: &Header, tokens: u64) -> u64 {
    let architecture = header.architecture();
    let own = |key: &str| header.of_architecture(key);
    let layers = own("block_count").unwrap_or(0);
    let heads = own("attention.head_count").unwrap_or(1).max(1);
    let head = own("embedding_length").unwrap_or(0) / heads;
    let width = own("attention.key_length").unwrap_or(head) + own("attention.value_length").unwrap_or(head);
    let per_layer = |key: &str| header.per_layer(&format!("{architecture}.attention.{key}"), layers);
    let kept = per_layer("head_count_kv").or_else(|| per_layer("head_count")).unwrap_or_default();
    let kept: u64 = kept.into_iter().fold(0, u64::saturating_add);
    tokens.saturating_mul(kept.saturating_mul(width).saturating_mul(2))
}

/// What llama.cpp computes in: for each token of a batch, logits over the vocabulary (f32), a mask
/// over the cache (f16) and some rows of the model's width; and one row of logits for every slot.
fn buffer_bytes(header: &Header, purpose: Purpose, batch: u64, cells: u64) -> u64 {
    let width = header.of_architecture("embedding_length").unwrap_or(0);
    match purpose {
        Purpose::Generate => {
            let logits = 4 * header.length("tokenizer.ggml.tokens").unwrap_or(0);
            let row = logits.saturating_add(cells.saturating_mul(2)).saturating_add(32 * width);
            batch.saturating_add(4).saturating_mul(row)
        }
        Purpose::Embed => batch.saturating_mul((2 * batch).saturating_add(48 * width)),
    }
}

/// Of a model that does not exist, for tests.
#[cfg(test)]
pub(super) fn sample(purpose: Purpose) -> Survey {
    let generates = purpose == Purpose::Generate;
    let capabilities = Capabilities { chat: false, tools: false, embeddings: !generates, context: 512 };
    let context = NonZeroU32::MIN.saturating_add(511);
    Survey { purpose, template: None, capabilities, context, batch: 256, width: 2, need: Need::default() }
}

#[cfg(test)]
mod tests {
    use super::super::gguf_writer::Writer;
    use super::*;
    use crate::request::ModelId;

    #[test]
    fn a_context_beyond_the_training_is_refused() {
        let chosen = |wanted, trained| choose_context(wanted, trained, 8192).ok().map(NonZeroU32::get);
        assert_eq!(chosen(None, 2048), Some(2048));
        assert_eq!(chosen(None, 32768), Some(8192));
        for (wanted, fits) in [(1, true), (2048, true), (2049, false), (0, false)] {
            assert_eq!(chosen(Some(wanted), 2048), fits.then_some(wanted));
        }
    }

    /// Two layers of two heads of 8, one of them without attention.
    fn small() -> Writer {
        Writer::new()
            .text("general.architecture", "llama")
            .u32("llama.context_length", 512)
            .u32("llama.block_count", 2)
            .u32("llama.embedding_length", 32)
            .u32("llama.attention.head_count", 4)
            .u32s("llama.attention.head_count_kv", &[2, 0])
            .texts("tokenizer.ggml.tokens", &["a", "b", "c"])
    }

    fn survey(file: Writer, change: impl FnOnce(&mut ModelConfig)) -> Result<Survey, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.finish()).unwrap();
        let mut config = ModelConfig::new(ModelId::new("local/m"), path);
        change(&mut config);
        Survey::of(&config)
    }

    #[test]
    fn the_kv_cache_counts_layers_heads_slots_and_context() {
        let found = survey(small(), |config| config.slots = 3).unwrap();
        assert_eq!(found.need.kv, 3 * 512 * (2 * 8 * 2 * 2));
        let wide = small().u32("llama.attention.key_length", 16);
        let found = survey(wide, |config| (config.slots, config.context) = (1, Some(100))).unwrap();
        assert_eq!(found.need.kv, 100 * (2 * (16 + 8) * 2));
        assert_eq!((found.context.get(), found.batch), (100, 256));
    }

    #[test]
    fn what_a_model_can_do_is_known_without_loading_it() {
        let plain = survey(small(), |_| ()).unwrap();
        assert_eq!((plain.purpose, plain.capabilities.chat), (Purpose::Generate, false));
        let chat = survey(small().text("tokenizer.chat_template", "{{ messages[0].content }}"), |_| ()).unwrap();
        assert!(chat.capabilities.chat && !chat.capabilities.tools && !chat.capabilities.embeddings);
        let embedder = survey(small().u32("llama.pooling_type", 1), |_| ()).unwrap();
        assert!(embedder.capabilities.embeddings && embedder.need.kv == 0);
    }

    #[test]
    fn what_cannot_run_is_refused_before_it_is_loaded() {
        let refused = |file, change: fn(&mut ModelConfig)| survey(file, change).unwrap_err();
        assert!(refused(small(), |config| config.slots = 257).contains("slots = 257"));
        assert!(refused(small(), |config| config.context = Some(513)).contains("1 … 512"));
        let odd = Writer::new().text("general.architecture", "nonsense");
        assert!(refused(odd, |_| ()).contains("\"nonsense\""));
        assert!(refused(Writer::new(), |_| ()).contains("no architecture"));
        assert!(refused(small().u32("llama.pooling_type", 4), |_| ()).contains("rerankers"));
        assert!(refused(small().text("general.type", "adapter"), |_| ()).contains("an adapter"));
    }
}
