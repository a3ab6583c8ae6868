//! What is wrong with a configuration, where that is said to stand, and what is said.

use weir::control::{self, Control, Options};

use super::{environment, models, read};

const UPSTREAM: &str = "name = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\"]\n";
const POLICY: &str = "name = \"p\"\n[[rule]]\nname = \"all\"\nthen = { serve = \"up/m\" }\n";
const VARIABLES: &[(&str, &str)] = &[("A", "a"), ("KEY", "k"), ("ODD", "not one")];

/// A configuration and what is said of it. The line at fault is marked with `#!`; `UP` stands for
/// a right upstream, `UP!` for one whose table is at fault.
type Row = (&'static str, &'static [&'static str]);

const TOP: &[Row] = &[
    ("listen = = 1 #!\nUP\n", &["expected"]),
    ("listen = 5 #!\nUP\n", &["listen: invalid type: integer `5`, expected a string"]),
    ("\nlisten = \"8080\" #!\nUP\n", &["cannot listen on \"8080\"", "want HOST:PORT"]),
    ("admin = \"127.0.0.1:99999\" #!\nUP\n", &["cannot listen on \"127.0.0.1:99999\""]),
    ("admin = \":8081\" #!\nUP\n", &["cannot listen on \":8081\""]),
    ("admin = \"0.0.0.0:8081\" #!\nUP\n", &["admin_token = { env", "keep admin on 127.0.0.1"]),
    ("admin_token = \"hush\" #!\nUP\n", &["admin_token", "a key may not stand here", "{ env = "]),
    ("admin = \"0.0.0.0:8081\"\nadmin_token = { env = \"UNSET\" } #!\nUP\n", &["admin_token", "UNSET is not set"]),
    ("admin_token = { client = true } #!\nUP\n", &["admin_token", "want one of"]),
    ("watch = \"yes\" #!\nUP\n", &["watch", "boolean"]),
    ("workers = 0 #!\nUP\n", &["0 threads", "want 1 to"]),
    ("engine_threads = 1000000000 #!\nUP\n", &["1000000000 threads", "want 1 to"]),
    ("workers = -1 #!\nUP\n", &["workers", "-1"]),
    ("max_body = 0 #!\nUP\n", &["max_body = 0", "16MiB"]),
    ("max_body = \"2MiB\"\nmax_bodies = \"1MiB\" #!\nUP\n", &["max_bodies is less than max_body"]),
    ("max_body = \"lots\" #!\nUP\n", &["max_body"]),
    ("policy_headers = [\"x-ok\", \"x team\"] #!\nUP\n", &["\"x team\"", "no name of a header"]),
    ("policy_headers = [\"Authorization\"] #!\nUP\n", &["\"Authorization\"", "request.tenant"]),
    ("timeout = \"5s\" #!\nUP\n", &["unknown key `timeout`", "known: listen, "]),
    ("upstream = 1 #!\n[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\n", &["want tables: [[upstream]]"]),
    ("prices = \"gone.toml\" #!\nUP\n", &["prices = \"gone.toml\"", "cannot read"]),
    ("telemetry = { otlp = \"c:4317\" } #!\nUP\n", &["telemetry: otlp = \"c:4317\": want a URL such as http://"]),
    (
        "telemetry = { otlp = \"http://c\", protocol = \"udp\" } #!\nUP\n",
        &["telemetry: protocol = \"udp\" is unknown; known: grpc, http"],
    ),
    ("telemetry = { otlp = \"http://c\", sample = 2.0 } #!\nUP\n", &["telemetry: sample = 2; want 0 to 1"]),
    ("telemetry = { otlp = \"http://c\", service = \"\" } #!\nUP\n", &["telemetry: service is empty"]),
    ("telemetry = { sample = 0.5 } #!\nUP\n", &["telemetry: missing field `otlp`"]),
];

const UPSTREAMS: &[Row] = &[
    ("UP\nprices = 1 #!\n", &["unknown field `prices`"]),
    ("UP\nslots = 1 #!\n", &["unknown field `slots`"]),
    ("UP\nidle_timeout = \"soon\" #!\n", &["`soon` is not a duration like \"5s\""]),
    ("UP\nconnect_timeout = \"0s\" #!\n", &["`0s` is no time to wait"]),
    ("UP\napi_key = \"hush\" #!\n", &["upstream: a key may not stand here", "{ env = "]),
    ("UP\napi_key = { vault = \"x\" } #!\n", &["unknown field `vault`"]),
    ("UP!\ndialect = \"anthropic\"\n", &["unknown dialect \"anthropic\"", "known: openai"]),
    ("UP!\napi_key = {}\n", &["api_key: want one of", "{ client = true }"]),
    ("UP!\napi_key = { env = \"A\", file = \"b\" }\n", &["api_key: want one of"]),
    ("UP!\napi_key = { env = \"A\", client = true }\n", &["api_key: want one of"]),
    ("UP\nUP!\n", &["upstream \"up\"", "given twice"]),
    (
        "[[upstream]] #!\nname = \"local\"\nendpoints = [\"http://h/v1\"]\nmodels = [\"*\"]\n",
        &["\"local\"", "other than"],
    ),
    (
        "[[upstream]] #!\nname = \"a/b\"\nendpoints = [\"http://h/v1\"]\nmodels = [\"*\"]\n",
        &["\"a/b\"", "without slash"],
    ),
    ("[[upstream]] #!\nname = \"u\"\nendpoints = []\nmodels = [\"*\"]\n", &["0 endpoints", "want 1 to 64"]),
    ("[[upstream]] #!\nname = \"u\"\nendpoints = [\"http://h/v1\"]\nmodels = []\n", &["models is empty"]),
    (
        "[[upstream]] #!\nname = \"u\"\nendpoints = [\"http://h/v1\"]\nmodels = [\"a b\"]\n",
        &["model name \"a b\"", "no spaces"],
    ),
    (
        "[[upstream]] #!\nname = \"u\"\nendpoints = [\"host/v1\"]\nmodels = [\"*\"]\n",
        &["endpoint \"host/v1\"", "want a URL"],
    ),
    ("[[upstream]] #!\nname = \"u\"\nendpoints = [\"http://h/v1?k=1\"]\nmodels = [\"*\"]\n", &["k=1", "without query"]),
    (
        "[[upstream]] #!\nname = \"u\"\nendpoints = [\"http://me:hush@h/v1\"]\nmodels = [\"*\"]\n",
        &["credentials", "api_key"],
    ),
    ("[[upstream]] #!\nname = \"u\"\nmodels = [\"*\"]\n", &["upstream: missing field `endpoints`"]),
];

const MODELS: &[Row] = &[
    ("[[model]] #!\nname = \"up/x\"\nfile = \"smollm2-135m-instruct\"\n", &["model name \"up/x\"", "want local/NAME"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"missing.gguf\"\n", &["no file", "missing.gguf", "name of the catalogue"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"hf:nothing\"\n", &["\"hf:nothing\"", "hf:ORG/REPO:FILE"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"hf:o/r:new.gguf\"\n", &["no file", "weir models add hf:o/r:new.gguf"]),
    ("[[model]] #!\nname = \"x\"\n", &["model \"x\"", "want file"]),
    (
        "[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\nadapter = { of = \"x\", file = \"a.gguf\" }\n",
        &["file and adapter", "want one"],
    ),
    (
        "[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\n[[model]] #!\nname = \"y\"\nadapter = { of = \"z\", file = \"p.toml\" }\n",
        &["adapter.of = \"z\" is no local model", "local/x"],
    ),
    (
        "[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\n[[model]] #!\nname = \"y\"\nadapter = { of = \"x\", file = \"gone.gguf\" }\n",
        &["adapter: no file", "gone.gguf"],
    ),
    (
        "[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\n[[model]] #!\nname = \"y\"\nadapter = { of = \"x\", file = \"p.toml\" }\n",
        &["model \"y\": adapter: ", "not a GGUF file"],
    ),
    (
        "[[model]] #!\nname = \"local/x@canary\"\nfile = \"smollm2-135m-instruct\"\n",
        &["model name \"local/x@canary\"", "no spaces, quotes, backslashes, stars or @"],
    ),
    (
        "[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\ncanary = { file = \"gone.gguf\" }\n",
        &["model \"local/x\": canary: no file", "gone.gguf"],
    ),
    (
        "[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\ncanary = { file = \"p.toml\", shadow = 1.5 }\n",
        &["canary: shadow = 1.5: want 0 to 1"],
    ),
    (
        "[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\ncanary = { file = \"p.toml\", tenants = [\"q\"] }\n",
        &["canary: tenants: no tenant \"q\""],
    ),
    ("memory = \"1MiB\" #!\nUP\n", &["memory = 1.0 MiB", "no model fits"]),
    ("[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\nresidency = \"never\" #!\n", &["never", "on_demand"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\nslots = 0\n", &["slots = 0", "want 1 to 256"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\nslots = 257\n", &["slots = 257", "want 1 to 256"]),
    ("[[model]] #!\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\ncontext = 0\n", &["context = 0", "1 or more"]),
    (
        "[[model]]\nname = \"x\"\nfile = \"smollm2-135m-instruct\"\n[[model]] #!\nname = \"local/x\"\nfile = \"smollm2-135m-instruct\"\n",
        &["\"local/x\" is given twice"],
    ),
    (
        "UP\n[[virtual]] #!\nname = \"auto\"\npolicy = \"gone.toml\"\n",
        &["\"auto\"", "cannot read the policy", "gone.toml"],
    ),
    ("UP\n[[virtual]] #!\nname = \"a/b\"\npolicy = \"p.toml\"\n", &["virtual model \"a/b\"", "without slash"]),
    (
        "UP\n[[virtual]]\nname = \"a\"\npolicy = \"p.toml\"\n[[virtual]] #!\nname = \"a\"\npolicy = \"p.toml\"\n",
        &["virtual model \"a\"", "name of its own"],
    ),
    (
        "UP\n[[virtual]]\nname = \"a\"\npolicy = \"p.toml\"\n[[virtual]] #!\nname = \"b\"\npolicy = \"q.toml\"\n",
        &["both called \"p\"", "rename one"],
    ),
];

const TENANTS_AND_PRICES: &[Row] = &[
    ("UP\n[[tenant]] #!\nname = \"\"\nkey = { env = \"KEY\" }\n", &["tenant name \"\""]),
    ("UP\n[[tenant]] #!\nname = \"t\"\nkey = { env = \"UNSET\" }\n", &["tenant \"t\"", "UNSET is not set"]),
    ("UP\n[[tenant]] #!\nname = \"t\"\nkey = { client = true }\n", &["tenant \"t\"", "want one of"]),
    ("UP\n[[tenant]] #!\nname = \"t\"\nkey = { file = \"gone\" }\n", &["tenant \"t\"", "cannot read the key file"]),
    ("UP\n[[tenant]] #!\nname = \"t\"\nkey = { env = \"ODD\" }\n", &["tenant \"t\"", "ODD holds no key"]),
    (
        "UP\n[[tenant]]\nname = \"t\"\nkey = { env = \"KEY\" }\n[[tenant]] #!\nname = \"v\"\nkey = { env = \"KEY\" }\n",
        &["tenant \"v\"", "that of tenant \"t\""],
    ),
    (
        "UP!\napi_key = { client = true }\n[[tenant]]\nname = \"t\"\nkey = { env = \"KEY\" }\n",
        &["upstream \"up\"", "would send it the keys of [[tenant]]", "{ env = \"NAME\" }"],
    ),
    ("UP\n[[price]] #!\nmodel = \"up/m\"\ninput = -1.0\noutput = 1.0\n", &["price of \"up/m\": -1", "0 or more"]),
    ("UP\n[[price]] #!\nmodel = \"up/m\"\ninput = nan\noutput = 1.0\n", &["price of \"up/m\": NaN"]),
    ("UP\n[[price]] #!\nmodel = \"m\"\ninput = 1.0\noutput = 1.0\n", &["price of \"m\"", "full name"]),
    ("UP\n[[price]] #!\nmodel = \"up/m\"\ninput = 1.0\n", &["price: missing field `output`"]),
    (
        "UP\n[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 1\n[[price]] #!\nmodel = \"up/m\"\ninput = 1\noutput = 1\n",
        &["price of \"up/m\" is given twice"],
    ),
];

fn written(row: &str) -> String {
    let whole = |mark: &str| format!("[[upstream]]{mark}\n{UPSTREAM}");
    row.replace("UP!\n", &whole(" #!")).replace("UP\n", &whole(""))
}

/// What is wrong with what is said of a row.
fn fault((row, says): &Row) -> Option<String> {
    let text = written(row);
    let line = text.lines().position(|line| line.ends_with("#!")).unwrap() + 1;
    let Err(problems) = read(&text, &[("p.toml", POLICY), ("q.toml", POLICY)], VARIABLES) else {
        return Some(format!("let through:\n{text}"));
    };
    let [problem] = &problems[..] else { return Some(format!("{problems:#?}\n{text}")) };
    let fits =
        problem.place.ends_with(&format!("weir.toml:{line}")) && says.iter().all(|part| problem.message.contains(part));
    let secret = problem.message.contains("hush");
    (!fits || secret).then(|| format!("{problem}\nwant line {line} and {says:?}\n{text}"))
}

#[test]
fn every_bad_configuration_is_refused_with_its_place_and_the_way_out() {
    let table: Vec<&Row> = [TOP, UPSTREAMS, MODELS, TENANTS_AND_PRICES].into_iter().flatten().collect();
    let faults: Vec<String> = table.iter().filter_map(|row| fault(row)).collect();
    assert!(table.len() >= 50 && faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let text = written(
        "workers = 0\nmax_body = 0\nprices = \"prices.toml\"\nUP\n[[virtual]]\nname = \"a\"\npolicy = \"p.toml\"\n",
    );
    let prices = "[[price]]\nmodel = \"up/m\"\ninput = 1.0\noutput = 1.0\n\n[[price]]\nmodel = \"m\"\ninput = 1.0\noutput = 1.0\n";
    let policy = POLICY.replace("up/m", "up/gone");
    let problems = read(&text, &[("prices.toml", prices), ("p.toml", &policy)], &[]).unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.rsplit('/').next().unwrap()).collect();
    assert_eq!(places, ["weir.toml:2", "weir.toml:1", "prices.toml:6", "p.toml:4"], "{problems:#?}");
    assert!(problems[3].message.contains("up/gone") && problems[3].message.contains("up/m"), "{}", problems[3]);
}

#[test]
fn a_price_file_is_read_as_strictly_and_gives_way_to_the_inline_price() {
    let priced = |prices: &str| {
        let text = written("prices = \"prices.toml\"\nUP\n[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 1\n");
        read(&text, &[("prices.toml", prices)], &[])
    };
    assert!(priced("[[price]]\nmodel = \"up/m\"\ninput = 9\noutput = 9\n").is_ok());
    for (prices, line, says) in [
        ("[[price]]\nmodel = \"up/x\"\ninput = \"1\"\noutput = 1\n", 3, "invalid type"),
        ("[[price]]\nmodel = \"up/x\"\ninput = 1\noutput = 1\ncurrency = \"EUR\"\n", 5, "unknown field `currency`"),
        ("[[prices]]\nmodel = \"up/x\"\n", 1, "unknown key `prices`; known: price"),
    ] {
        let problems = priced(prices).err().unwrap();
        assert!(problems[0].place.ends_with(&format!("prices.toml:{line}")), "{problems:#?}");
        assert!(problems[0].message.contains(says), "{problems:#?}");
        assert_eq!(control::check_prices("prices.toml", prices).len(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_read_or_serves_nothing_is_refused() {
    let gone = Options { config: Some("/nowhere/weir.toml".into()), ..Options::default() };
    assert!(control::read(&gone).unwrap_err()[0].to_string().starts_with("/nowhere/weir.toml: cannot read"));
    assert!(read("", &[], &[]).unwrap_err()[0].message.contains("nothing could answer"));
}

#[test]
fn a_model_without_its_file_is_one_problem_however_many_policies_name_it() {
    let text = "[[model]]\nname = \"x\"\nfile = \"gone.gguf\"\n[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";
    let problems = read(text, &[("p.toml", &POLICY.replace("up/m", "local/x"))], &[]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
}

#[test]
fn one_port_for_both_is_refused() {
    let text = written("listen = \"127.0.0.1:9000\"\nadmin = \"127.0.0.1:9000\"\nUP\n");
    assert!(read(&text, &[], &[]).unwrap_err()[0].message.contains("want two ports"));
}

#[test]
fn a_missing_key_is_a_warning_that_names_the_upstream_and_the_variable() {
    for (key, reason) in [
        ("{ env = \"UNSET\" }", "UNSET is not set"),
        ("{ file = \"gone.key\" }", "gone.key"),
        ("{ env = \"ODD\" }", "ODD holds no key"),
    ] {
        let checked = read(&written(&format!("UP\napi_key = {key}\n")), &[], VARIABLES).unwrap();
        let [warning] = &checked.warnings[..] else { panic!("{:?}", checked.warnings) };
        assert!(warning.contains("upstream \"up\" is unavailable") && warning.contains(reason), "{warning}");
    }
}

#[test]
fn listening_beyond_this_machine_without_tenants_is_warned_of() {
    let warnings = |listen: &str, tenants: &str| {
        let text = written(&format!("listen = \"{listen}\"\nUP\n{tenants}"));
        read(&text, &[], VARIABLES).unwrap().warnings.len()
    };
    let tenant = "[[tenant]]\nname = \"t\"\nkey = { env = \"KEY\" }\n";
    assert_eq!(warnings("0.0.0.0:8080", ""), 1);
    assert_eq!(warnings("[::]:8080", ""), 1);
    assert_eq!(warnings("0.0.0.0:8080", tenant), 0);
    for loopback in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"] {
        assert_eq!(warnings(loopback, ""), 0, "{loopback}");
    }
}

/// A policy that keeps something on the box must not send it to an upstream's model of that name.
#[test]
fn a_name_that_could_be_a_full_one_is_no_short_name() {
    let text = "[[upstream]]\nname = \"a\"\nendpoints = [\"http://h/v1\"]\nmodels = [\"local/x\", \"b/y\", \"org/z\", \"w\"]\n\
                [[upstream]]\nname = \"b\"\nendpoints = [\"http://h/v1\"]\nmodels = [\"y\", \"w\"]\n";
    let names = read(text, &[], &[]).unwrap().names();
    let short: Vec<&str> = names.short.keys().map(String::as_str).collect();
    assert_eq!(short, ["org/z", "y"]);
    assert_eq!(names.resolve("local/x"), None);
    assert_eq!(names.resolve("b/y").unwrap().as_str(), "b/y");
}

#[tokio::test]
async fn no_secret_is_shown_by_debug() {
    let folder = tempfile::tempdir().unwrap();
    let models = models();
    let text = written("UP\napi_key = { env = \"UP_KEY\" }\n[[tenant]]\nname = \"t\"\nkey = { file = \"t.key\" }\n");
    std::fs::write(folder.path().join("weir.toml"), text).unwrap();
    std::fs::write(folder.path().join("t.key"), "hush-tenant\n").unwrap();
    let options = Options {
        config: Some(folder.path().join("weir.toml")),
        env: environment(models.path(), &[("UP_KEY", "hush-upstream")]),
        ..Options::default()
    };
    let checked = control::read(&options).unwrap();
    let mut shown = format!("{options:?} {checked:?}");
    let control = Control::open(options, checked).await.unwrap();
    shown.push_str(&format!("{control:?} {:?}", control.current()));
    assert!(shown.contains("UP_KEY") && !shown.contains("hush"), "{shown}");
}
