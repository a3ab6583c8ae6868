//! Models on demand, on real files: loaded at first use, unloaded when others need the room.

use std::time::Duration;

use weir::backend::State;
use weir::local::{Host, ModelConfig, Residency, Terms, need};
use weir::request::ModelId;

use super::harness::*;

fn on_demand(name: &str) -> ModelConfig {
    ModelConfig { slots: 1, context: Some(256), residency: Residency::OnDemand, ..config(name) }
}

#[test]
fn one_that_is_needed_takes_the_place_of_one_that_is_idle() {
    runtime().block_on(async {
        let (smol, minilm) = (on_demand(SMOL), on_demand(MINILM));
        let ids = [smol.id.clone(), minilm.id.clone()];
        let memory = Some(need(&smol).expect("a need").total() + (8 << 20));
        let terms = Terms { memory, load_wait: Duration::from_secs(60), ..Terms::new(1) };
        let host = Host::open(vec![smol, minilm], terms, None).await.expect("both are looked at");
        let state = |id: &ModelId| host.backend(id).expect("it is there").status().state;
        assert_eq!([state(&ids[0]), state(&ids[1])], [State::Unloaded, State::Unloaded]);
        let [smol, minilm] = [&ids[0], &ids[1]].map(|id| host.backend(id).expect("it is there"));
        assert!(host.capabilities(&ids[0]).expect("known").chat && smol.status().ready);
        let first = say(&smol, text("The sun is", greedy(8))).await.text;
        assert_eq!([state(&ids[0]), state(&ids[1])], [State::Warm, State::Unloaded]);
        assert!(!say(&minilm, embed(&["the sun"])).await.vector.is_empty());
        assert_eq!([state(&ids[0]), state(&ids[1])], [State::Unloaded, State::Warm]);
        assert_eq!(say(&smol, text("The sun is", greedy(8))).await.text, first);
        let figures = host.figures();
        let of = |id: &ModelId| figures.iter().find(|(known, _)| known == id).expect("it is told").1;
        assert_eq!((of(&ids[0]).loads, of(&ids[1]).loads), (2, 1));
        assert!(of(&ids[0]).weights_bytes > 90_000_000 && of(&ids[0]).kv_bytes > 0);
        assert_eq!((of(&ids[1]).weights_bytes, of(&ids[1]).state), (0, State::Unloaded));
        assert!(of(&ids[0]).prefill_tokens > 6 && of(&ids[0]).decode_tokens >= 14);
    });
}

#[test]
fn a_candidate_is_loaded_beside_the_model_and_takes_its_name_without_being_loaded_again() {
    runtime().block_on(async {
        let current = ModelConfig { residency: Residency::Pinned, ..on_demand(SMOL) };
        let name = current.id.clone();
        let candidate =
            ModelConfig { id: ModelId::new(format!("{name}@canary")), context: Some(512), ..current.clone() };
        let first = Host::open(vec![current.clone()], Terms::new(1), None).await.expect("it loads");
        let old = first.backend(&name).expect("it is there");
        let second = Host::open(vec![current, candidate.clone()], Terms::new(1), Some(&first)).await.expect("it loads");
        let trial = second.backend(&candidate.id).expect("it is there");
        let promoted = ModelConfig { id: name.clone(), ..candidate };
        let third = Host::open(vec![promoted], Terms::new(1), Some(&second)).await.expect("it loads");
        let now = third.backend(&name).expect("it is there");
        assert!(std::sync::Arc::ptr_eq(&trial, &now), "the candidate answers under its model's name");
        // What the old one began it ends, whatever host is gone.
        let running = start(&old, text("One, two,", greedy(40))).await.expect("an answer");
        drop((first, second, old));
        assert_eq!(fold(running).await.expect("to its end").usage.completion_tokens, 40);
    });
}
