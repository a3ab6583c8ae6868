//! The engine on real models: what it promises to any caller, over its own door.
//!
//! Tests that count on being alone open a host of their own; the others share one.

mod harness;

use weir::request::Finish;

use harness::{chat, config, greedy, open, runtime, say, smol};

#[test]
fn a_first_answer() {
    runtime().block_on(async {
        let smol = smol().await;
        let choice = say(&smol, chat("What is the capital of France?", greedy(32))).await;
        println!("{:?} {:?}", choice.text, choice.finish);
        for token in &choice.tokens {
            println!("{:?} {} {} {} {:?}", token.bytes, token.logprob, token.margin, token.entropy, token.top);
        }
        assert!(choice.text.contains("Paris"));
        assert_eq!(choice.finish, Some(Finish::Stop));
    });
}
