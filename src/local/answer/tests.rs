//! Answers from made-up logits over a vocabulary of ten tokens.

use super::*;

/// Token 0 ends the turn.
const PIECES: [&[u8]; 10] = [
    b"",
    b"one",
    b" two",
    b" three",
    b"\xe4\xb8",
    b"\xad",
    b"<tool_call>",
    b"{\"name\": \"now\", ",
    b"\"arguments\": {}}",
    b"</tool_call>",
];

fn vocabulary() -> Arc<Vocabulary> {
    Arc::new(Vocabulary::new(PIECES.iter().map(|piece| piece.to_vec()), vec![0]))
}

fn terms(sampling: Sampling) -> Terms {
    Terms { sampling: Arc::new(sampling), matcher: None, tools: None }
}

fn greedy() -> Sampling {
    Sampling { n: 1, ..Sampling::default() }
}

/// All deltas of an answer whose model prefers these tokens one after the other, and how many
/// tokens were to be decoded.
fn run(mut answer: Answer, tokens: &[u32]) -> (Vec<Part>, usize) {
    let (mut parts, mut decoded) = (Vec::new(), 0);
    for &token in tokens {
        let mut logits = [0.0; PIECES.len()];
        logits[token as usize] = 5.0;
        let step = answer.step(&logits).unwrap();
        parts.extend(step.parts);
        match step.next {
            Some(next) => assert_eq!(next, token),
            None => return (parts, decoded),
        }
        decoded += 1;
    }
    (parts, decoded)
}

fn text(parts: &[Part]) -> String {
    parts
        .iter()
        .filter_map(|part| if let Part::Text { text, .. } = part { Some(text.as_str()) } else { None })
        .collect()
}

fn count(parts: &[Part]) -> usize {
    parts.iter().map(|part| if let Part::Text { tokens, .. } = part { tokens.len() } else { 0 }).sum()
}

fn finish(parts: &[Part]) -> Finish {
    let Some(Part::Finish(finish)) = parts.last() else { panic!("{parts:?}") };
    *finish
}

#[test]
fn a_natural_end_a_limit_and_a_stop_text() {
    let stop = Sampling { stop: vec!["e tw".into()], ..greedy() };
    let table = [
        (greedy(), 9, "one two three", 4, Finish::Stop),
        (greedy(), 2, "one two", 2, Finish::Length),
        (stop, 9, "on", 2, Finish::Stop),
    ];
    for (sampling, limit, said, tokens, ended) in table {
        let answer = Answer::new(&terms(sampling), 0, limit, vocabulary());
        let (parts, decoded) = run(answer, &[1, 2, 3, 0]);
        assert_eq!((text(&parts).as_str(), count(&parts), finish(&parts)), (said, tokens, ended));
        assert_eq!(decoded, tokens - 1, "the last token is not decoded");
    }
}

#[test]
fn each_token_comes_with_its_score_even_while_its_text_is_held_back() {
    let (parts, _) = run(Answer::new(&terms(greedy()), 0, 9, vocabulary()), &[4, 5, 0]);
    let Part::Text { text: first, tokens } = &parts[0] else { panic!() };
    assert_eq!((first.as_str(), tokens.len()), ("", 1));
    assert_eq!(&tokens[0].bytes[..], b"\xe4\xb8");
    let expected = -(1.0 + 9.0 * (-5.0f32).exp()).ln();
    assert!((tokens[0].logprob - expected).abs() < 1e-5 && tokens[0].margin == 5.0);
    assert_eq!(tokens[0].top.len(), 2);
    assert_eq!(text(&parts), "中");
}

#[test]
fn calls_are_no_text_and_change_the_finish() {
    let terms = Terms { tools: Some(vec!["now".into()]), ..terms(greedy()) };
    let (parts, _) = run(Answer::new(&terms, 0, 9, vocabulary()), &[6, 7, 8, 9, 0]);
    let calls: Vec<&ToolCall> =
        parts.iter().filter_map(|part| if let Part::ToolCall(call) = part { Some(call) } else { None }).collect();
    assert_eq!((calls.len(), calls[0].name.as_str(), calls[0].arguments.as_str()), (1, "now", "{}"));
    assert!(calls[0].id.starts_with("call_"));
    assert_eq!((text(&parts).as_str(), count(&parts), finish(&parts)), ("", 5, Finish::ToolCalls));
}
