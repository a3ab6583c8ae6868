//! A GGUF file as a loaded model: what it can do, its tokens, its chat template, its grammars.
//!
//! Everything that can be wrong with a file is found here and told in one sentence that names the
//! file; nothing aborts the process. The weights are memory-mapped. llama.cpp's backend, a
//! singleton of the process, lives here too. Loaded models are shared by engines and requests.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llama_cpp_2::gguf::GgufContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;

use super::aside::with_stack;
use super::template::Template;
use super::vocabulary::Vocabulary;
use crate::error::Error;

/// Texts up to this many bytes are tokenised on the caller's stack.
const LONG_TEXT: usize = 4 * 1024;
/// Stack of a longer one, per byte.
const STACK_PER_BYTE: usize = 1024;

/// llama.cpp's value type of a string in a GGUF header.
const GGUF_STRING: u32 = 8;

/// llama.cpp, set up.
pub(super) struct Llama {
    /// The proof that it is.
    pub(super) backend: LlamaBackend,
    /// Held while a context is made: making two at once is unsound.
    pub(super) making: Mutex<()>,
}

/// llama.cpp, a singleton of the process, set up when first asked for.
pub(super) fn llama() -> Result<&'static Llama, String> {
    static LLAMA: OnceLock<Result<Llama, String>> = OnceLock::new();
    let llama = LLAMA.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default().with_logs_enabled(true));
        let backend = LlamaBackend::init().map_err(|error| format!("llama.cpp did not start: {error}"))?;
        Ok(Llama { backend, making: Mutex::new(()) })
    });
    llama.as_ref().map_err(Clone::clone)
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It continues text.
    Generate,
    /// It turns text into one vector.
    Embed,
}

/// A loaded model.
pub(super) struct Model {
    /// The weights.
    pub(super) llama: LlamaModel,
    /// Its tokens.
    pub(super) vocabulary: Arc<Vocabulary>,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// Its chat template, if the file has one that compiles.
    pub(super) template: Option<Template>,
    architecture: String,
    grammars: OnceLock<Result<Mutex<ParserFactory>, String>>,
}

impl Model {
    /// Loads a file; an error is one sentence.
    pub(super) fn load(file: &Path) -> Result<Model, String> {
        let place = file.display();
        let architecture = check_file(file).map_err(|error| format!("{place}: {error}"))?;
        let llama = load_weights(file).map_err(|error| format!("{place}: {error} (architecture {architecture:?})"))?;
        let purpose = purpose(&llama, &architecture).map_err(|error| format!("{place}: {error}"))?;
        let vocabulary = Arc::new(read_vocabulary(&llama));
        let template = read_template(&llama, file);
        Ok(Model { llama, vocabulary, purpose, template, architecture, grammars: OnceLock::new() })
    }

    /// The longest context the model was trained for.
    pub(super) fn trained_context(&self) -> u32 {
        self.llama.n_ctx_train()
    }

    /// A number of the file's header under `ARCHITECTURE.key`.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        number(&self.llama, &self.architecture, key)
    }

    /// Whether parts of a sequence can be removed and copied: not of a recurrent state, nor where
    /// a sliding window has forgotten what lies behind it.
    pub(super) fn copies(&self) -> bool {
        let slides = self.number("attention.sliding_window").is_some_and(|tokens| tokens > 0);
        !(slides || self.llama.is_recurrent() || self.llama.is_hybrid())
    }

    /// Bytes of f16 KV cache for so many tokens.
    pub(super) fn kv_bytes(&self, tokens: u64) -> u64 {
        let heads = u64::from(self.llama.n_head().max(1));
        let head = self.llama.n_embd() as u64 / heads;
        let key = self.number("attention.key_length").unwrap_or(head);
        let value = self.number("attention.value_length").unwrap_or(head);
        let per_layer = u64::from(self.llama.n_head_kv()) * (key + value) * 2;
        tokens * per_layer * u64::from(self.llama.n_layer())
    }

    /// The tokens of a rendered chat, whose special tokens stand in the text. BOS is added where
    /// the model wants one and the template did not write it.
    pub(super) fn tokenise_chat(&self, text: &str) -> Result<Vec<u32>, Error> {
        let vocab = self.llama.vocab();
        let mut tokens = self.split(text, false, true)?;
        if vocab.should_add_bos() && vocab.bos().0 >= 0 && tokens.first() != Some(&vocab.bos()) {
            tokens.insert(0, vocab.bos());
        }
        Ok(ids(tokens))
    }

    /// The tokens of plain text, with what the model wants around it. `special`: whether the
    /// text may name special tokens.
    pub(super) fn tokenise(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        Ok(ids(self.split(text, true, special)?))
    }

    /// llama.cpp's tokeniser. For some vocabularies it recurses once per character, so a long text
    /// gets a thread with a stack in proportion; an error where there is none.
    fn split(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<LlamaToken>, Error> {
        let split = || self.llama.vocab().tokenize(text.as_bytes(), add_special, parse_special);
        if text.len() <= LONG_TEXT {
            return Ok(split());
        }
        with_stack(STACK_PER_BYTE * text.len(), split)
    }

    /// What compiles schemas for this model's tokens; made once, when first asked for. Locked, so
    /// that many hostile schemas occupy one core and not all.
    pub(super) fn grammars(&self) -> Result<MutexGuard<'_, ParserFactory>, String> {
        let made = self.grammars.get_or_init(|| {
            let tokens = LlamaSampler::llguidance_tok_env(&self.llama);
            let slices = SlicedBiasComputer::general_slices();
            let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
                .map_err(|error| error.to_string())?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(Mutex::new(factory))
        });
        let made = made.as_ref().map_err(Clone::clone)?;
        Ok(made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn ids(tokens: Vec<LlamaToken>) -> Vec<u32> {
    tokens.into_iter().map(|token| token.0.cast_unsigned()).collect()
}

/// How many parameters a file says its model has (`general.size_label`); `None` where it does not.
pub(super) fn parameters(file: &Path) -> Option<u64> {
    let header = GgufContext::from_file(file)?;
    let key = header.find_key("general.size_label");
    let label = (key >= 0 && header.kv_type(key) == GGUF_STRING).then(|| header.val_str(key))??;
    parse_size(label)
}

/// `0.5B`, `135M`: how many that is.
fn parse_size(label: &str) -> Option<u64> {
    let unit = match label.chars().last()? {
        'K' => 1e3,
        'M' => 1e6,
        'B' => 1e9,
        'T' => 1e12,
        _ => return None,
    };
    let number: f64 = label.get(..label.len() - 1)?.parse().ok()?;
    Some((number * unit) as u64)
}

/// Looks at a file before llama.cpp does; answers its architecture.
fn check_file(file: &Path) -> Result<String, String> {
    let mut opened = File::open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file; `make models` fetches the catalogue's".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    let mut magic = [0; 4];
    if opened.read_exact(&mut magic).is_err() || &magic != b"GGUF" {
        return Err("not a GGUF file".into());
    }
    let header = GgufContext::from_file(file).ok_or("its GGUF header is damaged or cut off")?;
    let key = header.find_key("general.architecture");
    if key < 0 || header.kv_type(key) != GGUF_STRING {
        return Err("its GGUF header names no architecture".into());
    }
    Ok(header.val_str(key).unwrap_or_default().to_owned())
}

fn load_weights(file: &Path) -> Result<LlamaModel, String> {
    let refused =
        "llama.cpp cannot load it: damaged, cut off, too large for memory, or of an architecture it does not know";
    let params = LlamaModelParams::default();
    LlamaModel::load_from_file(&llama()?.backend, file, &params).map_err(|_| refused.to_owned())
}

fn number(llama: &LlamaModel, architecture: &str, key: &str) -> Option<u64> {
    llama.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok()
}

fn purpose(llama: &LlamaModel, architecture: &str) -> Result<Purpose, String> {
    /// llama.cpp's number of a pooling that ranks pairs of texts.
    const RANK: u64 = 4;
    if architecture == "t5" {
        return Err("models with an encoder and a decoder are not supported".into());
    }
    match number(llama, architecture, "pooling_type") {
        Some(RANK) => return Err("rerankers are not supported".into()),
        Some(pooling) if pooling > 0 => return Ok(Purpose::Embed),
        _ => {}
    }
    let causal = llama.meta_val_str(&format!("{architecture}.attention.causal"));
    Ok(if causal.is_ok_and(|causal| causal == "false") { Purpose::Embed } else { Purpose::Generate })
}

fn read_vocabulary(llama: &LlamaModel) -> Vocabulary {
    let vocab = llama.vocab();
    let tokens = || (0..vocab.n_tokens()).map(LlamaToken);
    let last = tokens().filter(|&token| vocab.is_eog(token)).map(|token| token.0.cast_unsigned()).collect();
    Vocabulary::new(tokens().map(|token| vocab.token_to_piece(token, false, None)), last)
}

fn read_template(llama: &LlamaModel, file: &Path) -> Option<Template> {
    let source = llama.chat_template(None).ok()?.to_string().ok()?;
    let vocab = llama.vocab();
    let text = |token: LlamaToken| match token.0 {
        ..0 => String::new(),
        _ => String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned(),
    };
    match Template::compile(&source, &text(vocab.bos()), &text(vocab.eos())) {
        Ok(template) => Some(template),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the model's chat template is not usable: no chat with it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_off_its_label() {
        let cases = [("0.5B", Some(500_000_000)), ("135M", Some(135_000_000)), ("8x7B", None), ("", None), ("é", None)];
        for (label, size) in cases {
            assert_eq!(parse_size(label), size, "{label}");
        }
    }
}
