//! The engine behind its door: a host of one model, asked as the gateway asks it.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use futures::future::join_all;
use futures::stream::select_all;
use tokio::time::Instant;
use weir::backend::{Backend, Call};
use weir::error::Result;
use weir::local::{Host, ModelConfig};
use weir::request::{Ask, ClientBody, Delta, ModelId, Part, Prompt, Request, Sampling, TenantId, Text};

use crate::pass::{Clocks, Pass};
use crate::{CONTEXT, SLOTS};

/// The engine of one model.
pub(crate) struct Served {
    engine: Arc<dyn Backend>,
    model: ModelId,
}

impl Served {
    /// Loads a file on one thread.
    pub(crate) async fn open(file: &Path) -> Served {
        let model = ModelId::new("local/bench");
        let config = ModelConfig { context: Some(CONTEXT), slots: SLOTS, ..ModelConfig::new(model.clone(), file) };
        let host = Host::open(vec![config], 1, None).await.expect("the model loads");
        Served { engine: host.backend(&model).expect("the model is there"), model }
    }

    /// One pass; and how many tokens the cache held when the last sequence began to decode.
    ///
    /// A step brings one token of every sequence, so the clocks follow the sequence that began
    /// last: from its second token, so many steps.
    pub(crate) async fn pass(&self, prompts: &[Vec<u32>], steps: usize) -> (Pass, usize) {
        let begun = Instant::now();
        let started = join_all(prompts.iter().map(|prompt| self.start(prompt))).await;
        let numbered = started.into_iter().enumerate().map(|(number, deltas)| deltas.map(move |delta| (number, delta)));
        let mut deltas = select_all(numbered);
        let mut first_tokens = vec![0.0; prompts.len()];
        let mut begun_sequences = 0;
        let mut clocks = None;
        let mut pacer = None;
        let mut left = steps + 1;
        while let Some((number, delta)) = deltas.next().await {
            let part = delta.expect("the engine answers").part;
            assert!(matches!(part, Part::Text { .. }), "a sequence ended before the pass");
            if first_tokens[number] == 0.0 {
                first_tokens[number] = begun.elapsed().as_secs_f64();
                begun_sequences += 1;
                if begun_sequences == prompts.len() {
                    pacer = Some(number);
                }
            } else if pacer == Some(number) {
                let (clocks, held) = *clocks.get_or_insert_with(|| (Clocks::read(), self.held()));
                left -= 1;
                if left == 0 {
                    drop(deltas);
                    let pass = clocks.pass(steps * prompts.len(), first_tokens);
                    self.until_idle().await;
                    return (pass, held);
                }
            }
        }
        unreachable!("sequences have more tokens than a pass has steps")
    }

    async fn start(&self, prompt: &[u32]) -> BoxStream<'static, Result<Delta>> {
        let sampling = Sampling { max_tokens: Some(CONTEXT / 2), n: 1, ..Sampling::default() };
        let prompts = vec![Prompt::Tokens(prompt.to_vec())];
        let request = Request {
            id: "bench".into(),
            tenant: TenantId::anonymous(),
            model: self.model.as_str().into(),
            stream: true,
            ask: Ask::Text(Text { prompts, sampling, ..Text::default() }),
            body: ClientBody::default(),
            headers: Default::default(),
            authorization: None,
        };
        let call = Call { request: Arc::new(request), model: self.model.clone() };
        self.engine.start(call).await.expect("the engine takes the request").deltas
    }

    fn held(&self) -> usize {
        (f64::from(self.engine.status().kv_used_ratio) * f64::from(CONTEXT * SLOTS)).round() as usize
    }

    async fn until_idle(&self) {
        while self.engine.status().slots_busy > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
