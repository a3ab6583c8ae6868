//! Tests of the file beside this one.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{Piece, ToolCallParser};

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> Piece {
    Piece::Call { name: name.to_owned(), arguments: arguments.to_owned() }
}

/// All pieces of these pushes, neighbouring texts joined.
fn run<'a>(pushes: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut parser = ToolCallParser::new(vec!["weather".to_owned(), "now".to_owned()]);
    let mut pieces: Vec<Piece> = Vec::new();
    for push in pushes {
        pieces.append(&mut parser.push(push));
    }
    pieces.append(&mut parser.finish());
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Text(before)), Piece::Text(after)) => before.push_str(&after),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

/// Answers without a call.
fn texts() -> Vec<(&'static str, Vec<Piece>)> {
    let answers = [
        "Hello.",
        " \n",
        "a < b and <tool> and <tool_cal",
        "<tool_call>not json</tool_call>",
        "\n<tool_call>not json</tool_call>\n",
        "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call> then",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no object\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arg",
        "<tool_call>",
        "{\"name\": \"other\", \"arguments\": {}}",
        "{\"name\": \"now\"}",
        "{\"name\": \"now\", \"arguments\": {}} and more",
        "{\"answer\": 42}",
        "{}",
    ];
    answers.into_iter().map(|answer| (answer, vec![text(answer)])).collect()
}

/// Answers with calls, and their pieces.
fn calls() -> Vec<(&'static str, Vec<Piece>)> {
    let city = r#"{"city": "Oslo"}"#;
    vec![
        ("", vec![]),
        (
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>",
            vec![call("weather", city)],
        ),
        (
            "<tool_call>{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\"}}</tool_call>",
            vec![call("weather", city)],
        ),
        ("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", vec![call("f", "{\"a\": 1}")]),
        ("<tool_call>{\"name\": \"now\"}</tool_call>", vec![call("now", "{}")]),
        ("<tool_call>{\"name\": \"now\", \"arguments\": null}</tool_call>", vec![call("now", "{}")]),
        ("<tool_call>{\"name\": \"now\", \"arguments\": {}}", vec![call("now", "{}")]),
        ("<tool_call>\n{{\"name\": \"f\", \"arguments\": {\"a\": {}}}}\n</tool_call>", vec![call("f", "{\"a\": {}}")]),
        (
            "Let me see.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"b\", \"arguments\": {\"x\": 1.0}}\n</tool_call>\n",
            vec![text("Let me see.\n"), call("a", "{}"), call("b", "{\"x\": 1.0}")],
        ),
        (
            "\n<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>\n done",
            vec![call("a", "{}"), text("\n done")],
        ),
        (
            "<tool_call>{\"name\": \"say\", \"arguments\": {\"x\": \"\\\" </tool_call>\"}}</tool_call>",
            vec![call("say", "{\"x\": \"\\\" </tool_call>\"}")],
        ),
        (
            "<tool_call>bad</tool_call><tool_call>{\"name\": \"a\"}</tool_call>",
            vec![text("<tool_call>bad</tool_call>"), call("a", "{}")],
        ),
        (
            "<tool_call>{\"name}</tool_call><tool_call>{\"name\": \"a\"}</tool_call>",
            vec![text("<tool_call>{\"name}</tool_call>"), call("a", "{}")],
        ),
        ("{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}", vec![call("weather", city)]),
        (" {\"parameters\": {}, \"name\": \"now\"}\n", vec![call("now", "{}")]),
        (
            "{\"name\": \"x\"} <tool_call>{\"name\": \"a\"}</tool_call>",
            vec![text("{\"name\": \"x\"} "), call("a", "{}")],
        ),
    ]
}

/// All of them; each is also fed in other cuts below.
fn table() -> Vec<(&'static str, Vec<Piece>)> {
    [texts(), calls()].concat()
}

#[test]
fn answers_are_split_into_texts_and_calls() {
    for (answer, wanted) in table() {
        assert_eq!(run([answer]), wanted, "{answer:?}");
    }
}

#[test]
fn any_cutting_into_pushes_gives_the_same_pieces() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    for (answer, wanted) in table() {
        assert_eq!(run(answer.split_inclusive(|_| true)), wanted, "{answer:?}, one by one");
        for _ in 0..50 {
            let cut = |_: char| random.random_bool(0.2);
            assert_eq!(run(answer.split_inclusive(cut)), wanted, "{answer:?}");
        }
    }
}

#[test]
fn text_is_held_back_only_while_it_may_become_a_call() {
    let mut parser = ToolCallParser::new(vec!["now".to_owned()]);
    assert_eq!(parser.push("one <"), [text("one ")]);
    assert_eq!(parser.push("tool_"), []);
    assert_eq!(parser.push("box> two"), [text("<tool_box> two")]);
    assert_eq!(parser.push(" <tool_call>{\"name\": \"a\"}</tool"), [text(" ")]);
    assert_eq!(parser.push("_call>"), [call("a", "{}")]);
    assert_eq!(parser.push("\n"), []);
    assert_eq!(parser.push("b"), [text("\nb")]);
    assert_eq!(parser.push(" c"), [text(" c")]);
    assert_eq!(parser.finish(), []);
}

#[test]
fn a_json_answer_flows_as_soon_as_its_first_key_is_no_calls_key() {
    let mut parser = ToolCallParser::new(vec!["now".to_owned()]);
    assert_eq!(parser.push("{ \"n"), []);
    assert_eq!(parser.push("umber"), [text("{ \"number")]);
    assert_eq!(parser.push("\": 1}"), [text("\": 1}")]);
    let mut parser = ToolCallParser::new(Vec::new());
    assert_eq!(parser.push("{\"name\""), [text("{\"name\"")]);
}
