//! The engine behind its door: a host of one model, asked as the gateway asks it.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream, SelectAll, select_all};
use tokio::time::Instant;
use weir::backend::{Backend, Call};
use weir::error::Result;
use weir::local::{Host, ModelConfig, Terms};
use weir::request::{Ask, ClientBody, Delta, ModelId, Part, Prompt, Request, Sampling, TenantId, Text};

use crate::pass::{Clocks, Fill, Pass};
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
        let host = Host::open(vec![config], Terms::new(1), None).await.expect("the model loads");
        Served { engine: host.backend(&model).expect("the model is there"), model }
    }

    /// One pass, and how full the cache was when its measured part began.
    ///
    /// A step brings one token of every sequence, so the clocks follow the sequence that began
    /// last: from its second token, so many steps.
    pub(crate) async fn pass(&self, prompts: &[Vec<u32>], steps: usize) -> (Pass, Fill) {
        let begun = Instant::now();
        let mut deltas = select_all(prompts.iter().enumerate().map(|(number, prompt)| {
            // A start is over with the first token, so it belongs to the stream.
            let deltas = stream::once(self.start(prompt)).flatten();
            deltas.map(move |delta| (number, delta)).boxed()
        }));
        let mut first_tokens = Vec::new();
        let mut said = vec![0; prompts.len()];
        while first_tokens.len() < prompts.len() {
            let number = next(&mut deltas).await;
            if said[number] == 0 {
                first_tokens.push(begun.elapsed().as_secs_f64());
            }
            said[number] += 1;
        }
        let last = said.iter().position(|&tokens| tokens == 1).expect("one has just begun");
        read_more(&mut deltas, &mut said, (last, 1)).await;
        let (clocks, held) = (Clocks::read(), self.held());
        let fill = Fill::new(prompts, &said, held);
        read_more(&mut deltas, &mut said, (last, steps)).await;
        let pass = clocks.pass(steps * prompts.len(), first_tokens);
        drop(deltas);
        self.until_idle().await;
        (pass, fill)
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
        let call = Call { request: Arc::new(request), model: self.model.clone(), trace: None };
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

/// The deltas of all sequences, each with the number of its own.
type Numbered<'s> = SelectAll<BoxStream<'s, (usize, Result<Delta>)>>;

/// Reads until a sequence has so many tokens more.
async fn read_more(deltas: &mut Numbered<'_>, said: &mut [usize], (sequence, more): (usize, usize)) {
    let end = said[sequence] + more;
    while said[sequence] < end {
        said[next(deltas).await] += 1;
    }
}

/// The sequence that has a token more.
async fn next(deltas: &mut Numbered<'_>) -> usize {
    let (number, delta) = deltas.next().await.expect("sequences have more tokens than a pass has steps");
    let part = delta.expect("the engine answers").part;
    assert!(matches!(part, Part::Text { .. }), "a sequence ended before the pass");
    number
}
