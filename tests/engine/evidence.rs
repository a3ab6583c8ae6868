//! Evidence on a real model's answer: what a gate gets, and that the prompt is not computed again.

use std::sync::{Arc, Mutex};

use weir::account::{Meter, Prices, Reason, Receipt, Record};
use weir::confidence::{Accept, Feature, Form, Inquiry, Judge, Measure, Second};
use weir::execute::{Backends, run};
use weir::plan::{Gate, HoldBack, OnFailure, Plan, Stage};
use weir::request::ModelId;

use super::harness::*;

#[derive(Debug, Default)]
struct Book(Mutex<Vec<Receipt>>);

impl Record for Book {
    fn record(&self, receipt: Receipt) {
        self.0.lock().expect("no panic").push(receipt);
    }
}

/// Asks a cascade of the same model twice, the first gated by this feature, and returns its receipt.
async fn ask_gated(feature: Feature) -> Receipt {
    let smol = smol().await;
    let names = ["local/m", "local/second", "local/large"].map(ModelId::new);
    let backends = Backends {
        models: names.clone().into_iter().map(|name| (name, Arc::clone(&smol))).collect(),
        ..Backends::default()
    };
    let second = Some(Second { model: "local/second".into(), model_sha256: None });
    let inquiry = Inquiry { samples: 3, temperature: 0.05, second, compare: Form::Auto };
    let judge = Judge { measure: Measure::Asked(feature, Arc::new(inquiry)), at_least: f64::MIN_POSITIVE };
    let gate = Gate { accept: Arc::new(Accept::Threshold(judge)), hold_back: HoldBack::All };
    let [first, _, last] = names;
    let stages =
        vec![Stage { model: first, gate: Some(gate), skip: None }, Stage { model: last, gate: None, skip: None }];
    let book = Arc::new(Book::default());
    let meter = Meter::open(Arc::clone(&book) as Arc<dyn Record>, Arc::new(Prices::default()));
    let plan = Plan::Cascade { stages, on_failure: OnFailure::Error, pin: None };
    let asked = request(chat("What is the capital of France? Answer with one word, please.", greedy(16)));
    let completion = run(plan, asked, &backends, meter).await.expect("an answer");
    fold(completion).await.expect("all of it");
    book.0.lock().expect("no panic").remove(0)
}

#[test]
fn a_real_answer_gets_its_evidence_from_the_prompt_that_is_there() {
    runtime().block_on(async {
        for feature in [Feature::PTrue, Feature::Agreement, Feature::SecondOpinion] {
            let receipt = ask_gated(feature).await;
            let reasons: Vec<_> = receipt.attempts.iter().map(|attempt| attempt.reason).collect();
            // A gate just above 0 depends on what is found, and refuses where nothing is.
            assert_eq!(reasons, [Some(Reason::Accepted), Some(Reason::Evidence)], "{feature}");
            let found = receipt.attempts[0].evidence.expect("evidence").get(feature);
            assert!((0.0..=1.0).contains(&found), "{feature} {found}");
            let (answer, evidence) = (receipt.attempts[0].usage, receipt.attempts[1].usage);
            assert!(evidence.cached_tokens * 2 > answer.prompt_tokens, "{feature}: {evidence:?} after {answer:?}");
        }
    });
}

#[test]
fn the_same_model_asked_greedily_agrees_with_itself() {
    runtime().block_on(async {
        let receipt = ask_gated(Feature::SecondOpinion).await;
        assert_eq!(receipt.attempts[0].evidence.expect("evidence").get(Feature::SecondOpinion), 1.0);
    });
}
