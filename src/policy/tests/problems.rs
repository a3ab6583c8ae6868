//! What is found at load, and on which line.

use super::{problems, then, when};

/// A condition and what must be said of it.
const WRONG_CONDITIONS: &[(&str, &str)] = &[
    ("request.promt_tokens > 1", "unknown signal \"request.promt_tokens\"; did you mean \"prompt_tokens\"; known: "),
    ("requst.tools > 1", "unknown name \"requst\"; did you mean \"request\"; known: request, models, budget"),
    ("request.tools", "must be true or false, but is int"),
    ("request.tools > 'a'", "\">\" does not take int and string"),
    ("request.tools && true", "\"&&\" does not take int and bool"),
    ("request.code_share * 2 > 1.0", "\"*\" does not take double and int"),
    ("request.text.contain('a')", "unknown function \".contain(…)\"; did you mean \"contains\""),
    ("upper(request.text) == 'A'", "unknown function \"upper(…)\""),
    ("request.text.contains(3)", "\".contains(…)\" does not take these types or this many"),
    ("request.text.matches('(')", "\"(\" is not a regular expression: unclosed group"),
    ("request.text.matches(request.model)", "the pattern of matches(\"…\") must be written out"),
    ("request.headers['x-tam'] == ''", "header \"x-tam\" is not named in the configuration; did you mean \"x-team\""),
    ("models['smal'].ready", "unknown model \"smal\""),
    ("models['small'].redy", "unknown fact \"models[\\\"small\\\"].redy\"; did you mean \"ready\""),
    ("budget.left > 1.0", "unknown fact \"budget.left\""),
    ("models.small.ready", "write models[\"small\"].ready: a model's name is quoted"),
    ("request.text.x == 1", "\".x\": only request, budget and models[\"…\"] have fields"),
    ("request == 1", "\"request\" alone is no value"),
    ("has(request.tools)", "has(…) is not needed"),
    ("[1, 2].exists(x, x == request.tools)", "loops, maps and structs are not allowed"),
    ("request.tools in []", "an empty list contains nothing"),
    ("request.tools in [1, 'a']", "a list's elements must be of one type"),
    ("request.tools > ", "not a CEL expression"),
    ("1 / 0 == 1", "fails on a sample request"),
    ("request.text == null", "bytes and null have no use in a condition"),
];

#[test]
fn wrong_conditions_are_found_at_load() {
    for (condition, wanted) in WRONG_CONDITIONS {
        let found = problems(&when(condition));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{condition}: {found:?}");
        assert!(found[0].starts_with("policies/p.toml:4: rule \"yes\": when: "), "{found:?}");
    }
}

#[test]
fn a_flaw_of_a_condition_of_several_lines_names_its_own_line() {
    let found = problems(&when("\nrequest.tools > 0\n|| request.imags > 0\n|| request.text > 3"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("policies/p.toml:6: rule \"yes\": when: unknown signal"), "{found:?}");
    assert!(found[1].starts_with("policies/p.toml:7: "), "{found:?}");
}

#[test]
fn wrong_plans_are_found_at_load() {
    for (plan, wanted) in [
        ("{ serve = \"smoll\" }", "rule \"r\": then: unknown model \"smoll\""),
        (
            "{ serve = \"local/smal\" }",
            "did you mean \"local/small\"; known: local/large, local/small, up/maxi, up/mini, any/*",
        ),
        ("{ serve = [] }", "\"serve\" must be a model's name or an array of names"),
        ("{ serve = [\"small\", \"local/small\"] }", "model \"local/small\" stands there twice"),
        ("{ serve = \"small\", hold_back = 3 }", "unknown key \"hold_back\""),
        (
            "{ serve = \"small\", reject = { status = 400, message = \"m\" } }",
            "needs exactly one of serve, cascade, reject",
        ),
        ("{}", "needs exactly one of serve, cascade, reject"),
        ("3", "\"then\" must be a table, not `3`"),
        (
            "{ cascade = [\"small\"], accept = { score = \"margin\", at_least = 1 } }",
            "a cascade needs at least 2 models",
        ),
        (
            "{ cascade = [\"up/mini\", \"small\"], accept = { score = \"margin\", at_least = 1 } }",
            "\"up/mini\" cannot be gated",
        ),
        ("{ cascade = [\"small\", \"up/mini\"] }", "missing key \"accept\""),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"mean_logprb\", at_least = -1 } }",
            "unknown score \"mean_logprb\"; did you mean \"mean_logprob\"",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"min_logprob\", at_least = 0.5 } }",
            "nothing reaches 0.5",
        ),
        ("{ cascade = [\"small\", \"up/mini\"], accept = { score = \"min_logprob\" } }", "missing key \"at_least\""),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = nan } }",
            "\"at_least\" must be a finite number",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 1.5 } }",
            "\"max_error\" must be between 0 and 1",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, confidence = 2 } }",
            "\"confidence\" must be between 0 and 1",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { max_error = 0.1, score = \"margin\" } }",
            "unknown key \"score\"",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 1 }, hold_back = 0 }",
            "\"hold_back\" must be a number of tokens (at least 1) or \"all\", not `0`",
        ),
        (
            "{ cascade = [\"small\", \"up/mini\"], accept = { score = \"margin\", at_least = 1 }, on_failure = \"upstream\" }",
            "\"on_failure\" must be \"local\" or \"error\"",
        ),
        ("{ reject = { status = 200, message = \"m\" } }", "\"status\" must be 400 to 599, not `200`"),
        ("{ reject = { status = 403 } }", "missing key \"message\""),
    ] {
        let found = problems(&then(plan));
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{plan}: {found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("policies/p.toml:4: ")), "{found:?}");
    }
}

#[test]
fn wrong_files_are_found_at_load() {
    let rule = "[[rule]]\nname = \"r\"\nthen = { serve = \"small\" }\n";
    for (source, wanted) in [
        ("name = ".to_owned(), "policies/p.toml:1: not TOML: "),
        ("name = \"a\"\nname = \"b\"\n".to_owned(), "policies/p.toml:2: not TOML: duplicate key"),
        (String::new(), "policies/p.toml:1: policy: missing key \"name\""),
        ("name = \"p\"\n".to_owned(), "policies/p.toml:1: policy: missing key \"rule\""),
        (format!("name = \"p q\"\n{rule}"), "policies/p.toml:1: policy: name \"p q\" must be"),
        (format!("name = 3\n{rule}"), "policies/p.toml:1: policy: \"name\" must be a string, not `3`"),
        (
            format!("name = \"p\"\nrules = 1\n{rule}"),
            "policies/p.toml:2: policy: unknown key \"rules\"; did you mean \"rule\"",
        ),
        ("name = \"p\"\n[rule]\nname = \"r\"\n".to_owned(), "policy: write a rule as [[rule]], not as [rule]"),
        (format!("name = \"p\"\n{rule}{rule}"), "policies/p.toml:5: rule \"r\": never reached, since rule \"r\""),
        (format!("name = \"p\"\n{rule}{rule}"), "policies/p.toml:6: rule \"r\": a rule of this name stands above"),
        (
            "name = \"p\"\n[[rule]]\nthen = { serve = \"small\" }\n".to_owned(),
            "policies/p.toml:2: rule 1: missing key \"name\"",
        ),
        ("name = \"p\"\n[[rule]]\nname = \"r\"\n".to_owned(), "rule \"r\": missing key \"then\""),
        (
            "name = \"p\"\n[[rule]]\nname = \"r\"\nwhen = 'true'\nthen = { serve = \"small\" }\n".to_owned(),
            "policies/p.toml:2: rule \"r\": the last rule must have no \"when\"",
        ),
        (
            "name = \"p\"\n[[rule]]\nname = \"r\"\nwhen = 3\nthen = { serve = \"small\" }\n".to_owned(),
            "rule \"r\": \"when\" must be a string, not `3`",
        ),
    ] {
        let found = problems(&source);
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{source}\n{found:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_lines() {
    let source = "nam = 1\n[[rule]]\nname = \"a\"\nwhen = 'request.x'\nthen = { serve = \"y\" }\n[[rule]]\nname = \"a\"\nwhat = 1\nthen = { cascade = [\"up/mini\"], hold_back = -1 }\n";
    let found = problems(source);
    let lines: Vec<&str> = found.iter().filter_map(|problem| problem.split(':').nth(1)).collect();
    assert_eq!(lines, ["1", "1", "4", "5", "7", "8", "9", "9", "9"], "{found:#?}");
}

#[test]
fn a_condition_that_nests_too_deep_is_refused_and_not_fatal() {
    let deep = |open: &str, close: &str, n: usize| format!("{}true{}", open.repeat(n), close.repeat(n));
    for condition in [
        deep("(", ")", 1000),
        deep("[", "]", 1000),
        deep("true ? true : ", "", 140),
        deep("!(", ")", 600),
        format!("{}1 > 1", "1 + ".repeat(500)),
        format!("request.text{} == 1", ".size()".repeat(280)),
        deep("(", ")", 2000),
    ] {
        let found = problems(&when(&condition));
        let refused = ["too deep", "longer than", "not a CEL", "does not take"];
        assert!(refused.iter().any(|words| found[0].contains(words)), "{found:?}");
    }
    assert!(super::compile(&when(&deep("(", ")", 12))).is_ok());
    assert!(super::compile(&when(&vec!["request.stream"; 100].join(" && "))).is_ok());
}
