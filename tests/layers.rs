//! The house rules that a compiler does not know: who imports whom, how large a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room → the rooms it may import. A room may always import itself.
const MAP: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("request", &[]),
    ("wire", &["error", "request"]),
    ("backend", &["error", "request"]),
    ("confidence", &["error", "request"]),
    ("plan", &["confidence", "error", "request"]),
    ("policy", &["backend", "confidence", "error", "plan", "request"]),
    ("api", &["backend", "error", "request", "wire"]),
    // Beyond the waist, account keeps the scores of an attempt, and observe renders them.
    ("account", &["backend", "confidence", "error", "plan", "request"]),
    ("local", &["backend", "error", "request"]),
    ("upstream", &["backend", "error", "request", "wire"]),
    // Audits read what an upstream said, and put a question of their own.
    ("execute", &["account", "backend", "confidence", "error", "plan", "request", "wire"]),
    (
        "control",
        &[
            "account",
            "api",
            "backend",
            "confidence",
            "error",
            "execute",
            "local",
            "plan",
            "policy",
            "request",
            "upstream",
        ],
    ),
    // Beyond receipts, observe captures requests, and policy knows what a secret looks like.
    ("observe", &["account", "backend", "confidence", "control", "error", "plan", "policy", "request"]),
    ("gateway", &["account", "api", "backend", "control", "error", "execute", "plan", "policy", "request"]),
    ("lab", &["confidence", "error", "plan", "request"]),
    ("listen", &["api", "error", "gateway"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

/// What only these files of `listen` may import too: those of the process and of its second port.
const LISTEN_ALSO: &[&str] = &["control", "observe"];
const LISTEN_ALSO_FILES: &[&str] = &["boot.rs", "mod.rs", "probes.rs", "state.rs", "succession.rs"];

/// The same of the files of `listen/admin`: a dry run replays what was captured as the workbench does.
const ADMIN_ALSO: &[&str] = &["control", "lab", "observe", "request"];

/// Not in names of files and folders: they say nothing.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "manager", "handler", "processor", "misc", "core", "base"];

/// Crate → the rooms that may name it.
const FENCES: &[(&str, &[&str])] = &[
    // observe speaks OTLP to a collector.
    ("hyper", &["listen", "api", "gateway", "observe", "upstream"]),
    // The workbench asks a gateway over HTTP, and commands an admin port.
    ("hyper_util", &["listen", "api", "cli", "gateway", "lab", "observe", "upstream"]),
    ("tower", &["listen", "upstream"]),
    ("tower_http", &["listen", "upstream"]),
    ("pingora_core", &["listen", "upstream"]),
    ("rustix", &["cli", "listen"]),
    ("listenfd", &["listen"]),
    ("sd_notify", &["listen"]),
    ("llama_cpp_2", &["local"]),
    ("arc_swap", &["control"]),
    ("prometheus", &["observe"]),
    ("opentelemetry_proto", &["observe"]),
    ("prost", &["observe"]),
    ("cel", &["policy"]),
    ("csv", &["lab"]),
    ("ureq", &["cli"]),
    ("flate2", &["lab"]),
];

const FILE_LINES: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The room of a file: its folder under `src`, or its own name.
fn room(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(root).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
}

/// A file without its comments and without its block of tests, which stands last.
fn code(text: &str) -> String {
    let body = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every room named after `crate::`, grouped imports included.
fn imported_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            rooms.insert(name);
        }
    }
    rooms
}

#[test]
fn a_room_imports_only_what_the_map_allows() {
    let map: BTreeMap<&str, &[&str]> = MAP.iter().copied().collect();
    let mut broken = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let own = room(path);
        let allowed =
            map.get(own.as_str()).unwrap_or_else(|| panic!("{}: room \"{own}\" is not in the map", path.display()));
        for other in imported_rooms(&code(text)) {
            let known = map.contains_key(other.as_str());
            let name = path.file_name().unwrap().to_string_lossy();
            let admin = path.parent().is_some_and(|folder| folder.ends_with("listen/admin"));
            let also = own == "listen"
                && (admin && ADMIN_ALSO.contains(&other.as_str())
                    || LISTEN_ALSO_FILES.contains(&&*name) && LISTEN_ALSO.contains(&other.as_str()));
            if known && other != own && !also && !allowed.contains(&"*") && !allowed.contains(&other.as_str()) {
                broken.push(format!("{}: {own} imports {other}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_crate_stays_behind_its_fence() {
    let mut broken = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let own = room(path);
        let body = code(text);
        for (name, rooms) in FENCES {
            let named = body.contains(&format!("{name}::")) || body.contains(&format!("use {name};"));
            let word = body.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == *name);
            if named && word && !rooms.contains(&own.as_str()) {
                broken.push(format!("{}: {own} names {name}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_file_exceeds_the_limit_and_each_says_what_it_is() {
    for (path, text) in sources() {
        assert!(
            text.lines().count() <= FILE_LINES,
            "{}: {} lines, at most {FILE_LINES}",
            path.display(),
            text.lines().count()
        );
        assert!(text.starts_with("//!"), "{}: does not open with //!", path.display());
    }
}

#[test]
fn no_file_or_folder_has_an_empty_name() {
    for (path, _) in sources() {
        let inside = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().with_extension("");
        let shown = inside.to_string_lossy();
        let empty = shown.split(['/', '_', '-']).find(|word| EMPTY_WORDS.contains(word));
        assert_eq!(empty, None, "{}", path.display());
    }
}

#[test]
fn imports_below_a_module_of_tests_are_seen() {
    let text = "//! x\n#[cfg(test)]\nmod tests;\n\nuse crate::account::Meter;\n#[cfg(test)]\nmod tests {\n    use crate::api;\n}\n";
    assert_eq!(imported_rooms(&code(text)), BTreeSet::from(["account".to_owned()]));
}

#[test]
fn the_current_generation_is_read_in_one_place_per_request() {
    let readers: BTreeSet<String> = sources()
        .iter()
        .filter(|(path, text)| !is_test(path) && code(text).contains(".current()"))
        .map(|(path, _)| room(path))
        .collect();
    let allowed: BTreeSet<String> = ["cli", "control", "gateway", "listen", "main"].map(str::to_owned).into();
    assert!(readers.is_subset(&allowed), "{readers:?}");
}
