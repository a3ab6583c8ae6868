//! Embeddings of all-MiniLM-L6-v2.

use weir::error::Kind;
use weir::request::{Ask, Embed, Prompt};

use super::harness::*;

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn similar_texts_have_similar_vectors_of_length_one() {
    runtime().block_on(async {
        let minilm = open(config(MINILM)).await;
        let inputs =
            ["How do I reset my password?", "I forgot my password, what now?", "The cat sleeps on the warm roof."];
        let answer = ask(&minilm, embed(&inputs)).await.expect("vectors");
        let vectors: Vec<&Vec<f32>> = answer.choices.iter().map(|choice| &choice.vector).collect();
        assert_eq!(vectors.len(), 3);
        for vector in &vectors {
            assert_eq!(vector.len(), 384);
            assert!((dot(vector, vector) - 1.0).abs() < 1e-4);
        }
        let (similar, unrelated) = (dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2]));
        println!("similar {similar:.3}, unrelated {unrelated:.3}");
        assert!(similar > 0.6 && unrelated < 0.3, "{similar} {unrelated}");
        assert!(answer.usage.prompt_tokens > 20 && answer.usage.completion_tokens == 0);
    });
}

#[test]
fn company_does_not_change_a_vector() {
    runtime().block_on(async {
        let minilm = open(config(MINILM)).await;
        let inputs: Vec<String> =
            (0..50).map(|n| format!("sentence number {n} {}", "and more words ".repeat(n % 13))).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let all = ask(&minilm, embed(&inputs)).await.expect("vectors");
        assert_eq!(all.choices.len(), 50);
        for number in [0, 17, 49] {
            let alone = ask(&minilm, embed(&inputs[number..=number])).await.expect("a vector");
            let same = dot(&alone.choices[0].vector, &all.choices[number].vector);
            assert!(same > 0.999, "input {number}: {same}");
        }
    });
}

#[test]
fn what_the_model_cannot_embed_is_refused_by_name() {
    runtime().block_on(async {
        let minilm = open(config(MINILM)).await;
        let long = "word ".repeat(600);
        let tokens = |tokens| Ask::Embed(Embed { inputs: vec![Prompt::Tokens(tokens)], ..Embed::default() });
        let sized =
            Ask::Embed(Embed { inputs: vec![Prompt::Text("a".into())], dimensions: Some(100), ..Embed::default() });
        let table = [
            (embed(&[&long]), "input", Some("context_length_exceeded")),
            (embed(&["short", &long]), "input[1]", Some("context_length_exceeded")),
            (tokens(vec![5_000_000]), "input", None),
            (tokens(vec![]), "input", None),
            (sized, "dimensions", None),
            (chat("Hello?", greedy(1)), "model", None),
        ];
        for (asked, param, code) in table {
            let error = refused(&minilm, asked).await;
            let detail = error.detail();
            assert_eq!(
                (detail.kind, detail.param.as_deref(), detail.code),
                (Kind::Invalid, Some(param), code),
                "{error}"
            );
        }
        assert_eq!(minilm.status().queue_depth, 0);
    });
}
