//! A GGUF file as a loaded model: what it can do, its tokens, its chat template, its grammars.
//!
//! Everything that can be wrong with a file is found here and told in one sentence that names the
//! file; nothing aborts the process. The weights are memory-mapped. llama.cpp's backend, a
//! singleton of the process, lives here too. Loaded models are shared by engines and requests.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;

use super::aside::with_stack;
use super::gguf::Header;
use super::shelf::Stamped;
use super::template::Template;
use super::vocabulary::Vocabulary;
use crate::error::Error;

/// Texts up to this many bytes are tokenised on the caller's stack.
const LONG_TEXT: usize = 4 * 1024;
/// Stack of a longer one, per byte.
const STACK_PER_BYTE: usize = 1024;

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

/// An adapter as a context applies it.
#[derive(Debug, Clone)]
pub(super) struct Scaled {
    /// Which one.
    pub(super) adapter: Stamped,
    /// What its change is multiplied by.
    pub(super) scale: f32,
}

/// A loaded model.
pub(super) struct Model {
    /// The weights.
    pub(super) llama: LlamaModel,
    /// Its tokens.
    pub(super) vocabulary: Arc<Vocabulary>,
    /// Its chat template, if the file has one that compiles.
    pub(super) template: Option<Template>,
    /// What its contexts may add, loaded with the weights: nothing may be added to them later.
    adapters: Vec<(Stamped, Result<Mutex<LlamaLoraAdapter>, String>)>,
    architecture: String,
    grammars: OnceLock<Result<Mutex<ParserFactory>, String>>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("architecture", &self.architecture).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a file and these adapters; `progress` hears how far it is, 0 … 1. An error is one sentence.
    /// An adapter that cannot be loaded fails only those who ask for it.
    pub(super) fn load(
        file: &Path,
        adapters: &[Stamped],
        progress: impl FnMut(f32) + 'static,
    ) -> Result<Model, String> {
        let architecture = Header::read(file).map(|header| header.architecture().to_owned());
        let architecture = architecture.map_err(|error| format!("{}: {error}", file.display()))?;
        let told = |error: String| format!("{}: {error} (architecture {architecture:?})", file.display());
        let mut llama = load_weights(file, progress).map_err(told)?;
        let load = |adapter: &Stamped| {
            let loaded = llama.lora_adapter_init(&adapter.0).map(Mutex::new);
            let refused = |_| format!("{}: llama.cpp cannot apply it to {}", adapter.0.display(), file.display());
            (adapter.clone(), loaded.map_err(refused))
        };
        let adapters = adapters.iter().filter(|adapter| adapter.0.is_file()).map(load).collect();
        let vocabulary = Arc::new(read_vocabulary(&llama));
        let template = read_template(&llama, file);
        Ok(Model { llama, adapters, vocabulary, template, architecture, grammars: OnceLock::new() })
    }

    /// Adds an adapter to a context of this model, before its first batch.
    pub(super) fn apply(&self, adapter: Option<&Scaled>, context: &mut LlamaContext<'_>) -> Result<(), String> {
        let Some(Scaled { adapter, scale }) = adapter else { return Ok(()) };
        let loaded = self.adapters.iter().find(|(known, _)| known == adapter).map(|(_, loaded)| loaded);
        let loaded = loaded.ok_or_else(|| format!("{}: it was not loaded with the model", adapter.0.display()))?;
        let mut loaded = loaded.as_ref().map_err(Clone::clone)?.lock().unwrap_or_else(PoisonError::into_inner);
        let set = context.lora_adapter_set(&mut loaded, *scale);
        set.map_err(|error| format!("{}: llama.cpp cannot apply it: {error}", adapter.0.display()))
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

fn load_weights(file: &Path, mut progress: impl FnMut(f32) + 'static) -> Result<LlamaModel, String> {
    let refused =
        "llama.cpp cannot load it: damaged, cut off, too large for memory, or of an architecture it does not know";
    let params = LlamaModelParams::default().with_progress_callback(move |share| {
        progress(share);
        true
    });
    LlamaModel::load_from_file(&llama()?.backend, file, &params).map_err(|_| refused.to_owned())
}

fn number(llama: &LlamaModel, architecture: &str, key: &str) -> Option<u64> {
    llama.meta_val_str(&format!("{architecture}.{key}")).ok()?.parse().ok()
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
