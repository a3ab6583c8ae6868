//! Builds a running engine from a model's configuration. Called by the host.

#[cfg(feature = "local")]
pub(super) use super::threads::ThreadBudget as Budget;
#[cfg(feature = "local")]
pub(super) use with_engine::load;
#[cfg(not(feature = "local"))]
pub(super) use without_engine::{Budget, load};

/// How many parameters a file says its model has; `None` where it does not, or nothing can read it.
#[cfg(feature = "local")]
pub fn parameters(file: &std::path::Path) -> Option<u64> {
    super::model::parameters(file)
}

/// How many parameters a file says its model has; `None`: this build reads no model.
#[cfg(not(feature = "local"))]
pub fn parameters(_file: &std::path::Path) -> Option<u64> {
    None
}

#[cfg(not(feature = "local"))]
mod without_engine {
    use super::super::host::{Loaded, ModelConfig};

    /// There is nothing to compute with.
    #[derive(Debug, Clone)]
    pub(in crate::local) struct Budget;

    impl Budget {
        /// No threads.
        pub(in crate::local) fn new(_threads: usize) -> Self {
            Budget
        }

        /// Nothing computes.
        pub(in crate::local) fn close(&self) {}
    }

    /// There is nothing to load with.
    pub(in crate::local) fn load(config: &ModelConfig, _budget: Budget, _threads: usize) -> Result<Loaded, String> {
        Err(format!("{}: this build has no engine (feature `local`)", config.file.display()))
    }
}

#[cfg(feature = "local")]
mod with_engine {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::super::embed::Embedder;
    use super::super::engine::Rules;
    use super::super::generate::Generator;
    use super::super::host::{Capabilities, Loaded, ModelConfig};
    use super::super::memory::available_bytes;
    use super::super::model::{Model, Purpose};
    use super::super::template::Template;
    use super::super::threads::ThreadBudget;

    /// The longest context taken without being asked for.
    const USUAL_CONTEXT: u32 = 8192;
    /// The same for embeddings: an encoder's memory grows with the square of it.
    const USUAL_INPUT: u32 = 2048;
    /// The most sequences llama.cpp keeps apart.
    const MOST_SLOTS: u32 = 256;
    /// Tokens of a batch: more never fit into a step of 100 ms on a CPU that we know.
    const BATCH: usize = 256;
    /// Tokens of a batch left to prompts when every slot decodes.
    const SPARE: usize = 32;

    /// Loads the file and starts its engine; an error is one sentence.
    pub(in crate::local) fn load(config: &ModelConfig, budget: ThreadBudget, threads: usize) -> Result<Loaded, String> {
        if !(1..=MOST_SLOTS).contains(&config.slots) {
            return Err(format!("slots = {}: must be 1 … {MOST_SLOTS}", config.slots));
        }
        let model = Arc::new(Model::load(&config.file)?);
        let usual = if model.purpose == Purpose::Embed { USUAL_INPUT } else { USUAL_CONTEXT };
        let context = choose_context(config.context, model.trained_context(), usual)?;
        let rules = Rules {
            context: context.get() as usize,
            slots: config.slots as usize,
            batch: BATCH.max(config.slots as usize + SPARE),
            threads: threads_for(model.llama.n_params(), threads),
            idle_timeout: config.idle_timeout,
            copies: model.copies(),
        };
        let template = model.template.as_ref();
        let generates = model.purpose == Purpose::Generate;
        let capabilities = Capabilities {
            chat: generates && template.is_some(),
            tools: generates && template.is_some_and(Template::supports_tools),
            embeddings: !generates,
            context: context.get(),
        };
        Ok(match model.purpose {
            Purpose::Generate => {
                check_memory(&model, u64::from(context.get()) * u64::from(config.slots))?;
                let backend = Generator::start(model, rules, budget, config.queue)?;
                Loaded { backend: Arc::new(backend), capabilities }
            }
            Purpose::Embed => {
                let backend = Embedder::start(model, rules, budget, config.queue)?;
                Loaded { backend: Arc::new(backend), capabilities }
            }
        })
    }

    fn choose_context(wanted: Option<u32>, trained: u32, usual: u32) -> Result<NonZeroU32, String> {
        let context = wanted.unwrap_or(trained.min(usual));
        match NonZeroU32::new(context) {
            Some(chosen) if context <= trained => Ok(chosen),
            _ => Err(format!("context = {context}: the model was trained for 1 … {trained}")),
        }
    }

    fn check_memory(model: &Model, tokens: u64) -> Result<(), String> {
        let needed = model.kv_bytes(tokens);
        match available_bytes() {
            Some(available) if needed > available => Err(format!(
                "its KV cache needs {} MiB, {} MiB are available; lower `slots` or `context`",
                needed >> 20,
                available >> 20,
            )),
            _ => Ok(()),
        }
    }

    /// Threads of one decode: small models gain nothing from many.
    fn threads_for(parameters: u64, budget: usize) -> usize {
        let useful = match parameters {
            0..300_000_000 => 4,
            300_000_000..2_000_000_000 => 8,
            _ => 32,
        };
        budget.clamp(1, useful)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_context_beyond_the_training_is_refused() {
            let chosen = |wanted, trained| choose_context(wanted, trained, 8192).ok().map(NonZeroU32::get);
            assert_eq!(chosen(None, 2048), Some(2048));
            assert_eq!(chosen(None, 32768), Some(8192));
            for (wanted, fits) in [(1, true), (2048, true), (2049, false), (0, false)] {
                assert_eq!(chosen(Some(wanted), 2048), fits.then_some(wanted));
            }
        }

        #[test]
        fn small_models_take_few_threads_and_none_more_than_there_are() {
            assert_eq!(threads_for(135_000_000, 16), 4);
            assert_eq!(threads_for(500_000_000, 16), 8);
            assert_eq!(threads_for(500_000_000, 1), 1);
            assert_eq!(threads_for(8_000_000_000, 0), 1);
        }
    }
}
